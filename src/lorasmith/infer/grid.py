"""Labelled grids of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 6
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def grid(
    rows: Sequence[Sequence[Image.Image]], *, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Image.Image:
    """Rows of pictures, each column as wide as its widest, with labels at the left and on top."""
    columns = max(len(row) for row in rows)
    widths = [max((row[i].width for row in rows if i < len(row)), default=0) for i in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    size = max(11, min(18, min(widths) // 11))
    font = ImageFont.load_default(size)
    left = 0
    if row_labels:
        left = max(int(font.getlength(line)) for label in row_labels for line in label.splitlines() or [""]) + 2 * GAP
    heads = [_wrapped(label, font, width) for label, width in zip(column_labels, widths, strict=False)]
    top = (max(len(h.splitlines()) for h in heads) * (size + 4) + GAP) if heads else 0

    canvas = Image.new(
        "RGB", (left + sum(widths) + GAP * (columns + 1), top + sum(heights) + GAP * (len(rows) + 1)), BACKGROUND
    )
    pen = ImageDraw.Draw(canvas)
    for i, head in enumerate(heads):
        pen.multiline_text((left + GAP + sum(widths[:i]) + GAP * i, GAP // 2), head, INK, font)
    y = top + GAP
    for r, row in enumerate(rows):
        if r < len(row_labels):
            pen.multiline_text((GAP, y + heights[r] // 2 - size // 2), row_labels[r], INK, font)
        for c, picture in enumerate(row):
            canvas.paste(picture, (left + GAP + sum(widths[:c]) + GAP * c, y))
        y += heights[r] + GAP
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text in at most four lines that fit into `width` pixels."""
    letters = max(6, int(width / max(1.0, font.getlength("n"))))
    return "\n".join(textwrap.wrap(text, letters, max_lines=4, placeholder=" ..."))

"""Labelled grids of pictures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GAP, LINES, WIDEST_LABEL = 6, 4, 220
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Rows of pictures, each column as wide as its widest, with labels at the left and on top."""
    columns = max(len(row) for row in rows)
    widths = [max((row[i].width for row in rows if i < len(row)), default=0) for i in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    font, size = font_for(min(widths))

    sides = [wrapped(label, font, WIDEST_LABEL) for label in row_labels]
    left = max((int(font.getlength(line)) for s in sides for line in s.splitlines()), default=-2 * GAP) + 2 * GAP
    heads = [wrapped(label, font, width) for label, width in zip(column_labels, widths, strict=False)]
    width = left + sum(widths) + GAP * (columns + 1)
    name = wrapped(title, font, width - 2 * GAP)
    above, top = (_height([name], size) if name else 0), _height(heads, size)

    canvas = Image.new("RGB", (width, above + top + sum(heights) + GAP * (len(rows) + 1)), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.multiline_text((left + GAP, GAP), name, INK, font)
    lefts = [left + GAP + sum(widths[:i]) + GAP * i for i in range(columns)]
    for x, head in zip(lefts, heads, strict=False):
        pen.multiline_text((x, above + GAP // 2), head, INK, font)
    y = above + top + GAP
    for r, row in enumerate(rows):
        if r < len(sides):
            lines = len(sides[r].splitlines())
            pen.multiline_text((GAP, y + max(0, (heights[r] - lines * (size + 4)) // 2)), sides[r], INK, font)
        for x, picture in zip(lefts, row, strict=False):
            canvas.paste(picture, (x, y))
        y += heights[r] + GAP
    return canvas


def folded(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, title: str = "", lines: int = LINES
) -> Image.Image:
    """Pictures in about as many rows as columns (up to four in one row), each with its caption above, of which so many
    lines are shown."""
    columns = len(pictures) if len(pictures) <= 4 else math.ceil(len(pictures) ** 0.5)
    cells = [captioned(picture, text, lines) for picture, text in zip(pictures, captions, strict=True)]
    return grid([cells[i : i + columns] for i in range(0, len(cells), columns)], title=title)


def captioned(picture: Image.Image, text: str, lines: int = LINES, *, below: bool = False) -> Image.Image:
    """A picture with a text of at most so many lines above it, or below it."""
    font, size = font_for(picture.width)
    shown = wrapped(text, font, picture.width, lines)
    room = max(size + 4 + GAP, _height([shown], size)) if below else _height([shown], size)
    canvas = Image.new("RGB", (picture.width, picture.height + room), BACKGROUND)
    ImageDraw.Draw(canvas).multiline_text((0, picture.height + 2 if below else 0), shown, INK, font)
    canvas.paste(picture, (0, 0 if below else room))
    return canvas


def font_for(width: int) -> tuple[Font, int]:
    """A font that goes with pictures of this width, and its size."""
    size = max(11, min(18, width // 11))
    return ImageFont.load_default(size), size


def wrapped(text: str, font: Font, width: int, lines: int = LINES) -> str:
    """The text in lines that fit into `width` pixels, at most so many for each line that it has."""
    letters = max(6, int(width / max(1.0, font.getlength("n"))))
    groups = (textwrap.wrap(line, letters, max_lines=lines, placeholder=" ...") for line in text.splitlines())
    return "\n".join(line for group in groups for line in group)


def _height(texts: Sequence[str], size: int) -> int:
    """Pixels for the longest of some wrapped texts; 0 if there are none."""
    return max((len(text.splitlines()) for text in texts), default=0) * (size + 4) + (GAP if texts else 0)

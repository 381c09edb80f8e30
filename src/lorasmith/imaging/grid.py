"""Labelled grids of pictures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GAP = 6
"""Pixels between pictures, and around labels."""
LINE_SPACING = 4
"""Pixels between lines of text."""
MAX_LINES = 4
MAX_LABEL_WIDTH = 220
BACKGROUND = (255, 255, 255)
TEXT_COLOUR = (30, 30, 30)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Rows of pictures, each column as wide as its widest picture, with row labels at the left and column labels on
    top. Rows may have different lengths, and there may be fewer labels than rows or columns."""
    widths = _column_widths(rows)
    heights = [max(picture.height for picture in row) for row in rows]
    font, font_size = font_for(min(widths))

    # Labels are wrapped first, because the number and length of their lines decide the size of the margins.
    row_texts = [wrap_text(label, font, MAX_LABEL_WIDTH) for label in row_labels]
    left_margin = _text_width(row_texts, font)
    column_texts = [wrap_text(label, font, width) for label, width in zip(column_labels, widths, strict=False)]
    total_width = left_margin + sum(widths) + GAP * (len(widths) + 1)
    title_text = wrap_text(title, font, total_width - 2 * GAP)
    title_height = _text_height([title_text], font_size) if title_text else 0
    header_height = title_height + _text_height(column_texts, font_size)
    total_height = header_height + sum(heights) + GAP * (len(rows) + 1)

    canvas = Image.new("RGB", (total_width, total_height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.multiline_text((left_margin + GAP, GAP), title_text, TEXT_COLOUR, font)
    column_x = [left_margin + GAP + sum(widths[:column]) + GAP * column for column in range(len(widths))]
    for x, text in zip(column_x, column_texts, strict=False):
        pen.multiline_text((x, title_height + GAP // 2), text, TEXT_COLOUR, font)

    y = header_height + GAP
    for index, row in enumerate(rows):
        if index < len(row_texts):
            # The label is centred beside its row, or starts at the top of the row if it is the taller of the two.
            text = row_texts[index]
            label_height = len(text.splitlines()) * (font_size + LINE_SPACING)
            label_y = y + max(0, (heights[index] - label_height) // 2)
            pen.multiline_text((GAP, label_y), text, TEXT_COLOUR, font)
        for x, picture in zip(column_x, row, strict=False):
            canvas.paste(picture, (x, y))
        y += heights[index] + GAP
    return canvas


def captioned_grid(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, title: str = "", max_lines: int = MAX_LINES
) -> Image.Image:
    """Pictures in about as many rows as columns (up to four pictures: one row), each with its caption above it, cut to
    `max_lines` lines."""
    columns = len(pictures) if len(pictures) <= 4 else math.ceil(len(pictures) ** 0.5)
    cells = [add_caption(picture, text, max_lines) for picture, text in zip(pictures, captions, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return grid(rows, title=title)


def add_caption(picture: Image.Image, text: str, max_lines: int = MAX_LINES, *, below: bool = False) -> Image.Image:
    """A copy of the picture with a caption of at most `max_lines` lines above it, or below it."""
    font, font_size = font_for(picture.width)
    caption = wrap_text(text, font, picture.width, max_lines)
    caption_height = _text_height([caption], font_size)
    if below:
        # There is always room for one line, so that pictures without a caption are as high as their neighbours.
        caption_height = max(font_size + LINE_SPACING + GAP, caption_height)

    canvas = Image.new("RGB", (picture.width, picture.height + caption_height), BACKGROUND)
    caption_y = picture.height + 2 if below else 0
    ImageDraw.Draw(canvas).multiline_text((0, caption_y), caption, TEXT_COLOUR, font)
    canvas.paste(picture, (0, 0 if below else caption_height))
    return canvas


def font_for(width: int) -> tuple[Font, int]:
    """A font for labels of pictures of this width, and its size, both in pixels."""
    size = max(11, min(18, width // 11))
    return ImageFont.load_default(size), size


def wrap_text(text: str, font: Font, width: int, max_lines: int = MAX_LINES) -> str:
    """The text broken into lines of at most `width` pixels; each line of `text` becomes at most `max_lines` lines."""
    letters = max(6, int(width / max(1.0, font.getlength("n"))))
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, letters, max_lines=max_lines, placeholder=" ...")
    return "\n".join(lines)


def _column_widths(rows: Sequence[Sequence[Image.Image]]) -> list[int]:
    """The width of the widest picture of each column."""
    widths = [0] * max(len(row) for row in rows)
    for row in rows:
        for column, picture in enumerate(row):
            widths[column] = max(widths[column], picture.width)
    return widths


def _text_width(texts: Sequence[str], font: Font) -> int:
    """Width in pixels of some wrapped texts with a gap on both sides; 0 if they are all empty."""
    lines = [line for text in texts for line in text.splitlines()]
    if not lines:
        return 0
    return max(int(font.getlength(line)) for line in lines) + 2 * GAP


def _text_height(texts: Sequence[str], font_size: int) -> int:
    """Height in pixels of the longest of some wrapped texts; 0 if there are none."""
    if not texts:
        return 0
    most_lines = max(len(text.splitlines()) for text in texts)
    return most_lines * (font_size + LINE_SPACING) + GAP

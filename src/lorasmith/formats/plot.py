"""A bar chart of the size of a LoRA's change per block."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path

# sizes in pixels
ROW_HEIGHT = 24
MARGIN = 16
LABEL_WIDTH = 170
BAR_WIDTH = 460
NUMBER_WIDTH = 90
BACKGROUND = (255, 255, 255)
TEXT_COLOR = (32, 36, 44)
SUBTITLE_COLOR = (120, 126, 138)
BAR_COLORS = {"unet": (58, 110, 184), "te": (196, 104, 52)}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def plot(norms: Mapping[str, float], title: str, path: Path) -> Path:
    """Draw a bar for the Frobenius norm of each block's change.

    Raises LorasmithError for a file name that is not of an image, or if there are no norms.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise LorasmithError(f"--plot {path}: give the name of an image file: {', '.join(SUFFIXES)}")
    if not norms:
        raise LorasmithError(
            f"--plot: the changes of {title} depend on the weights of the base; there is nothing to draw"
        )
    width = 2 * MARGIN + LABEL_WIDTH + BAR_WIDTH + NUMBER_WIDTH
    height = 2 * MARGIN + ROW_HEIGHT * (len(norms) + 2)
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)

    # two rows of headings, then a row for each block
    draw.text((MARGIN, MARGIN), title, TEXT_COLOR, ImageFont.load_default(16))
    draw.text((MARGIN, MARGIN + ROW_HEIGHT), "Frobenius norm of the change, by block", SUBTITLE_COLOR, font)
    largest_norm = max(norms.values()) or 1.0
    bar_left = MARGIN + LABEL_WIDTH
    for row, (block, norm) in enumerate(norms.items(), start=2):
        top = MARGIN + ROW_HEIGHT * row
        bar_length = round(BAR_WIDTH * norm / largest_norm)
        color = BAR_COLORS["unet" if block.startswith("unet") else "te"]
        draw.text((MARGIN, top + 2), block, TEXT_COLOR, font)
        draw.rectangle((bar_left, top + 4, bar_left + max(1, bar_length), top + ROW_HEIGHT - 5), color)
        draw.text((bar_left + bar_length + 8, top + 2), f"{norm:.3g}", TEXT_COLOR, font)

    path.parent.mkdir(parents=True, exist_ok=True)
    image_format = "jpeg" if suffix == ".jpg" else suffix.removeprefix(".")
    with atomic_path(path) as temporary:
        image.save(temporary, format=image_format)
    return path

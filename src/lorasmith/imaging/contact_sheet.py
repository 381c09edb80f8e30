"""Contact sheets of masks: each image with what does not count darkened and tinted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from lorasmith.core.store import atomic_path
from lorasmith.imaging.grid import folded

SIDE = 192
TINT = (150, 0, 60)
"""What lies over the places outside of a mask."""


def mask_contact_sheet(masked: Iterable[tuple[Image.Image, Image.Image]], labels: Sequence[str], output: Path) -> Path:
    """A picture of images with their masks over them, written to `output`. `masked`: image and mask of each label."""
    cells = [overlaid(picture, mask.convert("L")) for picture, mask in masked]
    sheet = folded(cells, list(labels), title="bright: the subject; red: what does not count")
    with atomic_path(output) as temporary:
        sheet.save(temporary, "jpeg", quality=88)
    return output


def overlaid(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """A small picture, tinted where the mask is black."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    tinted = Image.blend(small, Image.new("RGB", size, TINT), 0.7)
    return Image.composite(small, tinted, mask.resize(size, Image.Resampling.BILINEAR))

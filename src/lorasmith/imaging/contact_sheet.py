"""Contact sheets of masks: each image with the parts outside of its mask darkened and tinted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from lorasmith.core.store import atomic_path
from lorasmith.imaging.grid import captioned_grid
from lorasmith.imaging.heatmap import resize_longer_side

SIDE = 192
"""Longer side in pixels of a picture on the sheet."""
TINT = (150, 0, 60)
"""Colour that is blended over the parts of a picture outside of its mask."""


def mask_contact_sheet(masked: Iterable[tuple[Image.Image, Image.Image]], labels: Sequence[str], output: Path) -> Path:
    """Write a contact sheet of images with their masks to `output`, a JPEG. `masked`: image and mask of each label."""
    cells = [mask_overlay(picture, mask.convert("L")) for picture, mask in masked]
    sheet = captioned_grid(cells, labels, title="bright: the subject; red: ignored by the loss")
    with atomic_path(output) as temporary:
        sheet.save(temporary, "jpeg", quality=88)
    return output


def mask_overlay(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """A small copy of the picture, tinted where the mask (mode L) is black."""
    # blending in the small size is fast and gives the same picture
    small = resize_longer_side(picture, SIDE)
    tinted = Image.blend(small, Image.new("RGB", small.size, TINT), 0.7)
    return Image.composite(small, tinted, mask.resize(small.size, Image.Resampling.BILINEAR))

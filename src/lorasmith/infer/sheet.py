"""Contact sheets of masks: each image with what does not count darkened and tinted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lorasmith.core.store import atomic_path
from lorasmith.data.images import decode
from lorasmith.infer.grid import folded

SIDE = 192
TINT = (150, 0, 60)
"""What lies over the places outside of a mask."""


def mask_sheet(masks: Mapping[Path, Path], labels: Mapping[Path, str], output: Path) -> Path:
    """A picture of images with their masks over them, written to `output`. `masks`: image to mask file."""
    cells = []
    for image, mask in masks.items():
        picture, _ = decode(image.read_bytes())
        with Image.open(mask) as opened:
            cells.append(overlaid(picture, opened.convert("L")))
    sheet = folded(cells, [labels[image] for image in masks], title="bright: the subject; red: what does not count")
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

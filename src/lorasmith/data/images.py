"""Reading pictures of every sort as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".gif", ".tif", ".tiff", ".jxl"}
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}


def read(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """A picture turned as its EXIF says, as RGB over white, and its alpha channel (L) if it has one.

    Raises OSError or ValueError for a file that is not a whole picture.
    """
    with Image.open(path) as opened:
        opened.load()
        picture = ImageOps.exif_transpose(opened)
    if picture.mode in DEEP:
        picture = _eight_bit(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB"), layered.getchannel("A")
    return picture.convert("RGB"), None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit and float greys to 8 bits: 16-bit values by 257, floats in 0..1 by 255."""
    values = np.asarray(picture, dtype=np.float64)
    top = values.max(initial=0)
    factor = 255.0 if picture.mode == "F" and top <= 1 else (1.0 if top <= 255 and picture.mode == "F" else 1 / 257)
    return Image.fromarray(np.clip(np.round(values * factor), 0, 255).astype(np.uint8))


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) as seen after the EXIF turn, from the header alone."""
    with Image.open(path) as picture:
        width, height = picture.size
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def fit(picture: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Resized to `size` (area when shrinking, else Lanczos) and cropped to `box`: (H, W) or (H, W, 3) uint8."""
    if picture.size != size:
        smaller = size[0] <= picture.width and size[1] <= picture.height
        picture = picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS)
    return np.asarray(picture.crop(box)).copy()

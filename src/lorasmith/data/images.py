"""Reading pictures of every sort as 8-bit RGB."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".gif", ".tif", ".tiff", ".jxl"}
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
ORIENTATION = 0x0112
FILTERS = {
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """The bytes of a file as a picture turned as its EXIF says, RGB over white, and its alpha (L) if it has one.

    Colour profiles are not applied; of moving pictures the first frame counts. Raises ValueError, which says why, for
    bytes that are not a whole picture.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            return _rgb(_upright(opened))
    except UnidentifiedImageError:
        raise ValueError("no picture of a format that can be read here") from None
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise ValueError(f"not a whole picture: {error or type(error).__name__}") from error


def _upright(picture: Image.Image) -> Image.Image:
    turn = None
    with contextlib.suppress(Exception):  # a broken EXIF block does not make a picture unreadable
        turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if picture.mode in DEEP:
        picture = _eight_bit(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layered = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB"), layered.getchannel("A")
    return picture.convert("RGB"), None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit and float greys to 8 bits: 16-bit values by 257, floats in 0..1 by 255."""
    values = np.asarray(picture, dtype=np.float64)
    top = values.max(initial=0)
    factor = 1 / 257
    if picture.mode == "F" and top <= 255:
        factor = 255.0 if top <= 1 else 1.0
    return Image.fromarray(np.clip(np.round(values * factor), 0, 255).astype(np.uint8))


def fit(
    picture: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], how: str = "auto"
) -> NDArray[np.uint8]:
    """Resized to `size` and cropped to `box`: (H, W) or (H, W, 3) uint8.

    `how`: `auto` (by area when shrinking, else Lanczos; masks, which must not ring, bilinear), or one of FILTERS. All
    but `nearest` look at every pixel when they shrink.
    """
    if picture.size != size:
        smaller = size[0] <= picture.width and size[1] <= picture.height
        enlarge = FILTERS["bilinear" if picture.mode == "L" else "lanczos"]
        picture = picture.resize(size, FILTERS.get(how, FILTERS["area"] if smaller else enlarge))
    return np.asarray(picture.crop(box)).copy()

"""Reading pictures of every sort as 8-bit RGB."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lorasmith.data.placement import Box, Size

PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Modules that teach Pillow further formats, each with the function that does it; without one, the import does it."""

SIGNATURES = {
    re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "): ("JPEG XL", "pillow_jxl", 'pip install "lorasmith[jxl]"'),
    re.compile(rb".{4}ftyp(?:he|mi|ms)", re.DOTALL): ("HEIF", "pillow_heif", "pip install pillow-heif"),
    re.compile(rb".{4}ftypavi[fs]", re.DOTALL): ("AVIF", "PIL._avif", "pip install -U pillow"),
}
"""The first bytes of formats that need a package: name of the format, module, and the command that installs it."""

HIGH_BIT_DEPTH_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
EXIF_ORIENTATION = 0x0112
FILTERS = {
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


PIXELS_IN_MESSAGE = re.compile(r"\((\d+) pixels\)")
"""The size of a picture in Pillow's message about one that is too large."""


def ignore_size_warnings() -> None:
    """Keep Pillow from warning of pictures that are large but below its limit, such as panoramas."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


ignore_size_warnings()


@functools.cache
def register_plugins() -> None:
    """Let Pillow read the formats of all plugins that are installed."""
    for name, function in PLUGINS.items():
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            if function:
                getattr(module, function)()


def decode(data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """The bytes of an image file as a picture in RGB, rotated as its EXIF data say, with white where it is transparent;
    and its alpha channel (L), if it has one.

    Colour profiles are not applied. Of an animation the first frame is used. Raises ValueError with the reason if the
    bytes are not a complete picture.
    """
    if not data:
        raise ValueError("the file is empty")
    register_plugins()
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            picture = _upright(opened)
    except UnidentifiedImageError:
        raise ValueError(_unidentified(data)) from None
    except Image.DecompressionBombError as error:
        pixels = PIXELS_IN_MESSAGE.search(str(error))
        size = f"{int(pixels[1]) / 1e6:.0f} megapixels are" if pixels else "its megapixels are"
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ValueError(f"{size} more than is read ({limit:.0f}); make it smaller") from None
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        raise ValueError(f"not a complete picture: {error or type(error).__name__}") from error
    return _rgb(picture)


def _unidentified(data: bytes) -> str:
    """What to say of bytes that Pillow does not know."""
    for signature, (name, module, install) in SIGNATURES.items():
        if signature.match(data):
            if importlib.util.find_spec(module) is None:
                return f"a {name} picture, which needs a package that is not installed: {install}"
            return f"a {name} picture that is not complete, or of a kind that cannot be read"
    return "not a picture in a format that can be read"


def _upright(picture: Image.Image) -> Image.Image:
    """The picture rotated or mirrored as its EXIF data say."""
    transpose = None
    with contextlib.suppress(Exception):  # a broken EXIF block does not make a picture unreadable
        transpose = EXIF_TRANSPOSE.get(picture.getexif().get(EXIF_ORIENTATION, 1))
    return picture if transpose is None else picture.transpose(transpose)


def _rgb(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The picture in RGB over white, and its alpha channel or None."""
    if picture.mode in HIGH_BIT_DEPTH_MODES:
        picture = _eight_bit(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        if picture.mode == "La":  # Pillow cannot convert it to RGBA directly
            picture = picture.convert("LA")
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB"), rgba.getchannel("A")
    return picture.convert("RGB"), None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A picture of one channel with more than 8 bits, in 8 bits: 16-bit values are divided by 257, floats in 0..1 times
    255. Floats and 32-bit integers of which none is above 255 are 8-bit values already.

    Raises ValueError for values that are no numbers, or too large for 16 bits: their range is not known.
    """
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not numbers (NaN or infinite); write it anew without them")
    largest = values.max(initial=0)
    if largest > 65535:
        raise ValueError(f"holds values up to {largest:g}, and more than 16 bits are not read; save it with 8 bits")

    # Floats come in 0..1 or in 0..255, integers with 8 or 16 bits; the format does not say which.
    factor = 1 / 257
    if picture.mode in ("F", "I") and largest <= 255:
        factor = 255.0 if picture.mode == "F" and largest <= 1 else 1.0
    eight_bit = np.clip(np.round(values * factor), 0, 255).astype(np.uint8)
    return Image.fromarray(eight_bit)


def resize_and_crop(picture: Image.Image, size: Size, box: Box, filter_name: str = "auto") -> NDArray[np.uint8]:
    """The picture resized to `size` and cropped to `box`: (H, W, 3) uint8, or (H, W) for masks (mode L).

    `filter_name`: one of FILTERS, or `auto`: by area when shrinking, else Lanczos; masks are enlarged bilinearly, since
    Lanczos rings. All but `nearest` take every pixel into account when they shrink.
    """
    if picture.size != size:
        if filter_name in FILTERS:
            resampling = FILTERS[filter_name]
        elif size[0] <= picture.width and size[1] <= picture.height:
            resampling = FILTERS["area"]
        else:
            resampling = FILTERS["bilinear" if picture.mode == "L" else "lanczos"]
        picture = picture.resize(size, resampling)
    return np.asarray(picture.crop(box)).copy()

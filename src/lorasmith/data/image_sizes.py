"""The sizes of images by their headers, and which of them are too small for a source (`larger_than`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lorasmith.data.config import sides_of
from lorasmith.data.images import register_plugins


def pixels_of(path: Path) -> int | None:
    """Width times height, from the header of the file; None if it is not a picture that can be read."""
    register_plugins()
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height
    except Exception:  # Pillow's decoders raise exceptions of any type; reading the image names what is wrong
        return None


def too_small(paths: Sequence[Path], larger_than: int | tuple[int, int] | None) -> list[Path]:
    """The images that have at most as many pixels as a picture of the size `larger_than`; none if it is None. Files
    that cannot be read are not among them."""
    if larger_than is None:
        return []
    width, height = sides_of(larger_than)
    return [path for path in paths if (pixels := pixels_of(path)) is not None and pixels <= width * height]

"""Mask files: which file is the mask of which image, and how it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
ASPECT_TOLERANCE = 0.01
"""By what share the aspect ratio of a mask may differ from its image's."""

MASK_NAME = re.compile(r"(.+?)(?:[-_. ]mask|-masklabel|-condlabel)", re.IGNORECASE)
"""The stem of a mask beside its image, as other trainers name them: `1-masklabel`, `1.mask`, `1_mask`."""
MASK_MARKERS = ("-masklabel", "-mask", "_mask", ".mask")
MASK_FOLDERS = frozenset({"mask", "masks"})
"""Names of folders below images in which pictures with the names of the images are masks."""


def find_mask(image: Path, folder: Path) -> Path | None:
    """The file in `folder` with the same stem as the image, or None. In the folder of the images themselves it is
    `1-masklabel.png`, `1-mask.png`, `1_mask.png` or `1.mask.png`."""
    markers = MASK_MARKERS if folder == image.parent else ("", *MASK_MARKERS)
    paths = (folder / f"{image.stem}{marker}{suffix}" for marker in markers for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def masked_stem(stem: str) -> str | None:
    """The stem of the image that a mask with this stem belongs to; None if the name is not that of a mask."""
    match = MASK_NAME.fullmatch(stem)
    return None if match is None else match[1]


def decode_mask(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The bytes of a mask file as a grey picture (L) of `size`, the (width, height) of its image. White counts, black
    and transparent do not.

    Raises ValueError if it is not a picture or its aspect ratio differs from the image's.
    """
    from PIL import Image, ImageChops

    from lorasmith.data.images import decode

    picture, alpha = decode(data)
    grey = picture.convert("L")
    # Programs write masks as grey pictures or as the transparency of a white one; both work this way.
    if alpha is not None:
        grey = ImageChops.multiply(grey, alpha)
    require_same_aspect("mask", grey.size, size)
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BOX)


def require_same_aspect(what: str, size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise ValueError, which names `what`, unless both sizes (width, height) have the same aspect ratio."""
    image_ratio = image_size[0] / image_size[1]
    # A mask or picture may be smaller than its image, rounded to whole pixels.
    if abs(size[0] / size[1] - image_ratio) > ASPECT_TOLERANCE * image_ratio:
        raise ValueError(
            f"the {what} has {size[0]} x {size[1]} pixels, its image {image_size[0]} x {image_size[1]}; "
            "both must have the same aspect ratio"
        )

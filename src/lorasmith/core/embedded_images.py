"""The images and masks that come with the package, and their names in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.core.package import assets

EMBEDDED = "lorasmith:"
"""What the names of the images that come with the package begin with."""
EMBEDDED_IMAGES = ("garp", "others")
EMBEDDED_SOURCES = tuple(f"{EMBEDDED}{name}" for name in EMBEDDED_IMAGES)
"""What a config writes for them."""
EMBEDDED_MASKS = ("garp/masks",)


def embedded_images(value: Any) -> Any:
    """The folder in the package for `lorasmith:garp` or `lorasmith:others`; any other value as it is. Raises ValueError
    for an unknown name."""
    return _embedded(value, EMBEDDED_IMAGES, "images")


def embedded_masks(value: Any) -> Any:
    """The folder in the package for `lorasmith:garp/masks`; any other value as it is. Raises ValueError for an unknown
    name."""
    return _embedded(value, EMBEDDED_MASKS, "masks")


def _embedded(value: Any, names: tuple[str, ...], kind: str) -> Any:
    if not isinstance(value, str) or not value.startswith(EMBEDDED):
        return value
    name = value.removeprefix(EMBEDDED)
    if name not in names:
        known = " and ".join(f"{EMBEDDED}{known}" for known in names)
        raise ValueError(f'no {kind} "{name}" come with Lorasmith; there are {known}')
    return assets() / name


def is_embedded(folder: Path) -> bool:
    """Whether `folder` is part of the package."""
    return folder.is_relative_to(assets())

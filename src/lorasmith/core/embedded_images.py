"""The images that come with the package, and their names in a config."""

from __future__ import annotations

from typing import Any

from lorasmith.core.package import assets

EMBEDDED = "lorasmith:"
"""What the names of the images that come with the package begin with."""
EMBEDDED_IMAGES = ("garp", "others")
EMBEDDED_SOURCES = tuple(f"{EMBEDDED}{name}" for name in EMBEDDED_IMAGES)
"""What a config writes for them."""


def embedded_images(value: Any) -> Any:
    """The folder in the package for `lorasmith:garp` or `lorasmith:others`; any other value as it is. Raises ValueError
    for an unknown name."""
    if not isinstance(value, str) or not value.startswith(EMBEDDED):
        return value
    name = value.removeprefix(EMBEDDED)
    if name not in EMBEDDED_IMAGES:
        known = " and ".join(EMBEDDED_SOURCES)
        raise ValueError(f'no images "{name}" come with Lorasmith; there are {known}')
    return assets() / name

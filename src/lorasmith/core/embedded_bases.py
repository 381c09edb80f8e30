"""The base models that come with the package, by their names in a config."""

from __future__ import annotations

from pathlib import Path

from lorasmith.core.package import assets

DEFAULT_BASE = "tiny-sd"
"""The one that is meant where none is named."""
EMBEDDED_BASES = (DEFAULT_BASE, "tiny-flow")
"""A Stable Diffusion 1.x, and a Stable Diffusion 3."""


def folder_of(name: str) -> Path:
    """The diffusers folder of an embedded base, which an incomplete installation lacks."""
    return assets() / name

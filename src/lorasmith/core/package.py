"""The version of Lorasmith, and the folder of the files that come with it."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.2.0"


def assets() -> Path:
    """The folder of the files that come with Lorasmith: configs, tokenizers, the tiny base, styles of reports."""
    return Path(__file__).parents[1] / "assets"

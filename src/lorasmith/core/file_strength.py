"""`file:strength`, as LoRA files are named on the command line, in configs and in the Python API."""

from __future__ import annotations

from pathlib import Path


def split_strength(text: str) -> tuple[Path, float]:
    """The path and the strength of `file.safetensors:0.8`; without a number behind the last colon, strength 1."""
    path, _, number = text.rpartition(":")
    if not path:
        return Path(text), 1.0
    try:
        return Path(path), float(number)
    except ValueError:
        # the colon is part of the path, as in C:\loras
        return Path(text), 1.0

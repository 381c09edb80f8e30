"""Remarks on data that can be trained on but are probably not what the user wants, in ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["serious", "warning", "note"]
"""`serious`: the run would probably learn something else than is meant, so training stops until the user accepts it."""

SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""The most important one first."""

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Remark:
    """One remark on an image or on a folder of images. `kind`: what it is about, such as tiny, crop, trigger, files."""

    path: Path
    kind: str
    text: str
    severity: Severity


def list_names(paths: list[Path] | list[str], shown: int = NAMES_SHOWN) -> str:
    """`1.png, 2.png and 3 more`: the names of files, of which only a few are written out."""
    names = [path if isinstance(path, str) else path.name for path in paths]
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def count_of(number: int, singular: str, plural: str = "") -> str:
    """`1 image`, `3 images`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"

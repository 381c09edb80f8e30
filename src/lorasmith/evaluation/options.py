"""Keyword arguments of `lorasmith.evaluate`, as a type for editors and type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class EvaluateOptions(TypedDict, total=False):
    """What is compared besides LoRA files, and the base model."""

    base: str | Path | None
    """The base model that generates the pictures."""
    drawn: Sequence[Path | str]
    """Folders of existing pictures."""
    with_base: bool
    """Also the base model alone, with the class word in its prompts."""

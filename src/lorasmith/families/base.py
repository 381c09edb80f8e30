"""What training and sampling use of a model family, whatever its version.

Three interfaces: the network and its VAE (`model.py`), the text side (`text_side.py`) and the layers (`layers.py`).
A family implements all three; functions that need only one take only that one.
"""

from __future__ import annotations

from typing import Any

from lorasmith.families.conditioning import Conditioning
from lorasmith.families.layers import LayerNames
from lorasmith.families.model import DiffusionModel, Feature, InputChange, LatentDistribution
from lorasmith.families.text_side import TextSide
from lorasmith.moved_modules import renamed

__all__ = [
    "Conditioning",
    "DiffusionModel",
    "Family",
    "Feature",
    "InputChange",
    "LatentDistribution",
    "LayerNames",
    "TextSide",
]


def __getattr__(name: str) -> Any:
    """Names that this module had in version 0.1."""
    return renamed("families.base", name)


class Family(DiffusionModel, TextSide, LayerNames):
    """A loaded base model."""

    source: str
    """Where the base came from, as the user wrote it."""
    variant: str = ""
    """Which of the family's models it is, as metadata say it; empty where all have one name."""

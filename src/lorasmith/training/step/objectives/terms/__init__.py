"""Terms that an objective adds to its loss. One file a kind."""

from typing import Any

from lorasmith.moved_modules import renamed
from lorasmith.training.step.objectives.terms.base import LossTerm

__all__ = ["LossTerm"]


def __getattr__(name: str) -> Any:
    """Names that this package had in version 0.1."""
    return renamed("training.step.objectives.terms", name)

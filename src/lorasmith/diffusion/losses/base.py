"""The extension point of losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.diffusion.path import DiffusionPath


class Loss(Component, root="loss"):
    """An elementwise distance; the objective takes masks, means and weights."""

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        """(B, C, h, w) float32 each, t (B,); the unreduced loss, same shape."""

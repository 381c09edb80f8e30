"""The extension point of noise modifiers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng


class Noise(Component, root="noise"):
    """Changes standard Gaussian noise; several are applied in the order of the config.

    One with `input_only` changes what is added to x0 but not the target.
    """

    input_only: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        """(B, C, h, w) float32 to the same shape."""

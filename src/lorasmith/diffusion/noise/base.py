"""The extension point of noise modifiers."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.core.rng import StepRng


class Noise(Component, root="noise"):
    """Changes standard Gaussian noise; several are applied in the order of the config."""

    @abstractmethod
    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        """(B, C, h, w) float32 to the same shape."""

"""The extension point of timestep samplers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng
    from lorasmith.diffusion.path import DiffusionPath


class TimestepSampler(Component, root="timestep sampler"):
    """Draws t for each sample of a micro-batch."""

    @abstractmethod
    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        """t for each sample, (B,): int64 in [0, path.steps) on a discrete path, float on a continuous one."""


class Ranged(TimestepSampler):
    """Samplers of t between the training timesteps `min` and `max` (excluded)."""

    min: int = Field(default=0, ge=0)
    max: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min ({self.min}) must be below max ({self.max})")
        return self

    def span(self, path: DiffusionPath) -> tuple[int, int]:
        """`min` and `max`, cut to the training timesteps that the path has."""
        high = min(self.max, path.steps)
        low = min(self.min, high - 1)
        return low, high

    def place(self, u: Tensor, path: DiffusionPath) -> Tensor:
        """u (B,) in [0, 1] to t in the range; on a discrete path u = 1 is the last t."""
        return path.at(u, *self.span(path))

"""The extension point of timestep samplers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.schedule import NoiseSchedule


class TimestepSampler(Component, root="timestep sampler"):
    """Draws t for each sample of a micro-batch."""

    @abstractmethod
    def __call__(self, rng: StepRng, schedule: NoiseSchedule) -> Tensor:
        """(B,) int64 in [0, schedule.steps)."""


class Ranged(TimestepSampler):
    """Samplers of t in [min, max), in units of the schedule's steps."""

    min: int = Field(default=0, ge=0)
    max: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min ({self.min}) must be below max ({self.max})")
        return self

    def span(self, schedule: NoiseSchedule) -> tuple[int, int]:
        """The range within the schedule."""
        high = min(self.max, schedule.steps)
        return min(self.min, high - 1), high

    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """u (B,) in [0, 1] to t in the range; u = 1 is the last t."""
        low, high = self.span(schedule)
        return low + (u * (high - low)).long().clamp(max=high - low - 1)

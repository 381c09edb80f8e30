"""Uniform timesteps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps.base import TimestepSampler


class Uniform(TimestepSampler):
    """t uniform in [min, max), in units of the schedule's steps."""

    kind: Literal["uniform"] = "uniform"
    min: int = Field(0, ge=0)
    max: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _order(self) -> Uniform:
        if self.min >= self.max:
            raise ValueError(f"min ({self.min}) must be below max ({self.max})")
        return self

    def __call__(self, rng: StepRng, schedule: NoiseSchedule) -> Tensor:
        return rng.integers("timesteps", self.min, min(self.max, schedule.steps))

"""The extension point of timestep samplers."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.schedule import NoiseSchedule


class TimestepSampler(Component, root="timestep sampler"):
    """Draws t for each sample of a micro-batch."""

    @abstractmethod
    def __call__(self, rng: StepRng, schedule: NoiseSchedule) -> Tensor:
        """(B,) int64 in [0, schedule.steps)."""

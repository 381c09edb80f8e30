"""The extension point of loss weightings."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.schedule import NoiseSchedule


class Weighting(Component, root="weighting"):
    """A factor for each sample's loss that depends on t alone."""

    @abstractmethod
    def __call__(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        """t (B,) to weights (B,) float32, finite for every t of the schedule."""

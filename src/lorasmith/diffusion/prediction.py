"""What the network predicts, and how to get from it to x0 and noise.

x0, noise, x_t and output have one shape; t is (B,).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.diffusion.schedule import NoiseSchedule


class Prediction(Component, root="prediction"):
    """A parameterisation of the network's output."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """What a perfect network would give."""

    @abstractmethod
    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The clean latent that `output` stands for."""


class Epsilon(Prediction):
    """The noise itself (arXiv 2006.11239)."""

    kind: Literal["epsilon"] = "epsilon"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return noise

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        # at pure noise epsilon says nothing of x0; the bound keeps the answer finite
        return (x_t - schedule.sigma(t, x_t) * output) / schedule.alpha(t, x_t).clamp(min=1e-4)


class VPrediction(Prediction):
    """v = alpha noise - sigma x0 (arXiv 2202.00512, section 4)."""

    kind: Literal["v_prediction"] = "v_prediction"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return schedule.alpha(t, x0) * noise - schedule.sigma(t, x0) * x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return schedule.alpha(t, x_t) * x_t - schedule.sigma(t, x_t) * output

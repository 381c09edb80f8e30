"""A weighting that prefers timesteps around one place of the schedule."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting


class Bump(Weighting):
    """floor + exp(-(u - centre)^2 / 2 width^2), with u the timestep as a fraction, 0 (clean) to 1 (noise)."""

    kind: Literal["bump"] = "bump"
    centre: float = Field(default=0.5, ge=0, le=1)
    width: float = Field(default=0.2, gt=0)
    floor: float = Field(default=0.1, ge=0)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        """t (B,) to weights (B,), finite for every t."""
        u = path.fraction(t)
        return self.floor + torch.exp(-((u - self.centre) ** 2) / (2 * self.width**2))

"""The log-cosh loss: squared near 0, linear far off, smooth in between."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lorasmith.diffusion.losses.base import Loss
from lorasmith.diffusion.path import DiffusionPath


class LogCosh(Loss):
    """log cosh(a d) / a."""

    kind: Literal["log_cosh"] = "log_cosh"
    a: float = Field(default=1.0, gt=0)

    def __call__(self, output: Tensor, target: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        """(B, C, h, w) each; the loss of each element, not averaged."""
        d = self.a * (output - target)
        # log cosh d = d + log(1 + exp(-2 d)) - log 2, which does not overflow; cosh is even
        d = d.abs()
        return (d + F.softplus(-2 * d) - math.log(2)) / self.a

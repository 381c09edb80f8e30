"""Pseudo-Huber losses, with the width over t that sd-scripts users know."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import torch
from lorasmith.diffusion.losses.base import Loss
from lorasmith.diffusion.path import DiffusionPath

if TYPE_CHECKING:
    from torch import Tensor


class Huber(Loss):
    """2 c (sqrt(d^2 + c^2) - c): squared near 0, linear far off (arXiv 2403.16728, section 4).

    `c` may depend on t: `constant`; `exponential`, c^(t / T); `snr`, (1 - c) / (1 + sigma)^2 + c with sigma =
    sqrt((1 - abar) / abar), so that outliers count less where there is little noise.
    """

    kind: Literal["huber"] = "huber"
    c: float = Field(default=0.1, gt=0)
    scale: float = Field(default=1.0, gt=0)
    """A further factor on c, for all three forms."""
    schedule: Literal["constant", "exponential", "snr"] = "snr"

    def __call__(self, output: Tensor, target: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        c = self.width(t, path).view(-1, *[1] * (output.dim() - 1))
        return self.distance(output - target, c)

    def distance(self, d: Tensor, c: Tensor) -> Tensor:
        return c * smooth_l1(d, c)

    def width(self, t: Tensor, path: DiffusionPath) -> Tensor:
        """c at each t, (B,)."""
        if self.schedule == "constant":
            return torch.full_like(t, self.c, dtype=torch.float32) * self.scale
        if self.schedule == "exponential":
            return torch.exp(path.fraction(t) * math.log(self.c)) * self.scale
        alpha, sigma = path.alpha(t), path.sigma(t)
        # 1 / (1 + sigma / alpha)^2, written so that alpha = 0 (zero terminal SNR) stays finite
        return ((1 - self.c) * (alpha / (alpha + sigma)) ** 2 + self.c) * self.scale


def smooth_l1(d: Tensor, c: Tensor) -> Tensor:
    """2 (sqrt(d^2 + c^2) - c), as a quotient: the difference would lose all digits of a small d."""
    square = d**2
    return 2 * square / ((square + c**2).sqrt() + c)

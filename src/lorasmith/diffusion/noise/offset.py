"""Offset noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.base import Noise

if TYPE_CHECKING:
    from torch import Tensor


class Offset(Noise):
    """noise + strength * n, n one number per sample and channel: lets the model move the mean brightness.

    `random` draws the strength anew for each sample, uniform in [0, strength). `adaptive` adds that multiple of the
    absolute mean of each latent channel to the strength, which never falls below 0.
    """

    kind: Literal["offset"] = "offset"
    strength: float = Field(default=0.05, ge=0)
    random: bool = False
    adaptive: float = 0.0

    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        strength: Tensor | float = self.strength
        if self.random:
            strength = self.strength * rng.uniform("offset strength", (1, 1, 1))
        if self.adaptive:
            strength = (strength + self.adaptive * x0.mean((2, 3), keepdim=True).abs()).clamp(min=0)
        return noise + strength * rng.normal("offset", (x0.shape[1], 1, 1))

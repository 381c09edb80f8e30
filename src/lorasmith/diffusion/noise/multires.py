"""Multi-resolution (pyramid) noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import F
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.base import Noise

if TYPE_CHECKING:
    from torch import Tensor


class Multires(Noise):
    """Adds coarser and coarser noise, level i enlarged to the latent's size and weighted by discount^i, then brings
    each sample to unit std.

    Level i has the latent's size divided by factor^i (the tools that made this known draw the factor anew in 2..4; a
    fixed one keeps shapes constant). Levels end when a side is one pixel.
    """

    kind: Literal["multires"] = "multires"
    levels: int = Field(default=6, ge=1)
    discount: float = Field(default=0.3, ge=0, le=1)
    factor: float = Field(default=3.0, gt=1)

    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        channels, height, width = x0.shape[1:]
        total = noise
        for level in range(self.levels):
            h, w = (max(1, int(side / self.factor**level)) for side in (height, width))
            coarse = rng.normal(f"multires {level}", (channels, h, w))
            total = total + self.discount**level * F.interpolate(coarse, (height, width), mode="bilinear")
            if h == 1 or w == 1:
                break
        return total / total.std((1, 2, 3), keepdim=True)

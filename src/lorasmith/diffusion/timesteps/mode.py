"""Timesteps that prefer the middle or the ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import torch
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps.base import Ranged

if TYPE_CHECKING:
    from torch import Tensor


class Mode(Ranged):
    """t = min + (max - min) f(u), u uniform, f(u) = 1 - u - scale (cos^2(pi u / 2) - 1 + u) (arXiv 2403.03206, eq. 20).

    `scale` above 0 prefers the middle, below 0 the ends; 0 is uniform. All of [min, max) stays possible.
    """

    kind: Literal["mode"] = "mode"
    scale: float = Field(default=1.29, ge=-1, le=2 / (math.pi - 2))

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        u = rng.uniform("timesteps")
        preferred = 1 - u - self.scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
        # rounding may leave [0, 1] by one unit
        return self.place(preferred.clamp(0, 1), path)

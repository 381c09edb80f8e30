"""Timesteps that prefer one end of another distribution's range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from lorasmith.core.deferred_torch import torch
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps.base import Ranged

if TYPE_CHECKING:
    from torch import Tensor


class Quantile(Ranged):
    """The quantile function of `of` at v = f(u), with u uniform.

    `prefer` chooses f: `noise`, 1 - u^3 (arXiv 2302.08453, section 3.4; ai-toolkit: `content`); `data`, u^3
    (ai-toolkit: `style`); `none`, u. `of`: `uniform`, or `logit_normal` with mean 0 and standard deviation 1. `min` and
    `max` cut v, not t: with 0 and 500, the cleaner half of the draws of `of`.
    """

    kind: Literal["quantile"] = "quantile"
    of: Literal["uniform", "logit_normal"] = "uniform"
    prefer: Literal["noise", "data", "none"] = "noise"

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        u = rng.uniform("timesteps")
        if self.prefer == "noise":
            u = 1 - u**3
        elif self.prefer == "data":
            u = u**3
        low, high = (step / path.steps for step in self.span(path))
        v = low + u * (high - low)
        if self.of == "logit_normal":
            normal = math.sqrt(2) * torch.erfinv(2 * v - 1)
            v = normal.sigmoid()
        return path.at(v, 0, path.steps)

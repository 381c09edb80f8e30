"""Timesteps with a preference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps.base import Ranged

if TYPE_CHECKING:
    from torch import Tensor


class LogitNormal(Ranged):
    """t = min + (max - min) sigmoid(mean + std n), n standard normal (arXiv 2403.03206, section 3.1).

    `mean` above 0 prefers noisy t, below 0 clean ones; a small `std` gathers them around sigmoid(mean).
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        logits = self.mean + self.std * rng.normal("timesteps", ())
        return self.place(logits.sigmoid(), path)

"""Uniform timesteps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps.base import Ranged


class Uniform(Ranged):
    """t uniform in [min, max), each sample by itself (arXiv 2006.11239, algorithm 1)."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        return path.uniform(rng, *self.span(path))

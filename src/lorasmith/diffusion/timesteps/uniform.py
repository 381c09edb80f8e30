"""Uniform timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.timesteps.base import Ranged

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng
    from lorasmith.diffusion.path import DiffusionPath


class Uniform(Ranged):
    """t uniform in [min, max), each sample by itself (arXiv 2006.11239, algorithm 1)."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        return path.uniform(rng, *self.span(path))

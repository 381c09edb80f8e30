"""Uniform timesteps without clumps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps.base import Ranged

if TYPE_CHECKING:
    from torch import Tensor


class Stratified(Ranged):
    """t uniform in [min, max), evenly spread over each batch and over the run.

    The mean loss is the same as with `uniform`, with less noise in it (low-discrepancy timesteps: arXiv 2107.00630,
    appendix I.1), which counts most at small batches.
    """

    kind: Literal["stratified"] = "stratified"

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        return self.place(rng.spread("timesteps"), path)

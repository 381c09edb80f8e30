"""Immiscible noise: the nearest of several draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import torch
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.base import Noise

if TYPE_CHECKING:
    from torch import Tensor


class Immiscible(Noise):
    """Of `candidates` draws of noise, each sample gets the one that is nearest to its x0 (arXiv 2505.18521).

    The noise that an image meets then lies in a smaller part of the space, so the network has less to average over. The
    first form (arXiv 2406.12303) assigns the draws of a batch to its images; here each sample chooses by itself, so
    that the noise of a sample does not depend on the others and one image a step works too. The choice is no longer
    exactly Gaussian: with many candidates the noise moves towards x0.
    """

    kind: Literal["immiscible"] = "immiscible"
    candidates: int = Field(default=4, ge=2, le=64)

    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        # (B, candidates, C, h, w); the first candidate is the noise itself
        further = rng.normal("immiscible", (self.candidates - 1, *x0.shape[1:]))
        draws = torch.cat([noise[:, None], further], 1)
        distances = (draws - x0[:, None]).flatten(2).square().sum(2)
        nearest = distances.argmin(1).view(-1, *[1] * (draws.dim() - 1))
        return draws.gather(1, nearest.expand(-1, 1, *x0.shape[1:])).squeeze(1)

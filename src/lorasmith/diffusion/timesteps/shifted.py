"""Timesteps moved towards the noise, as flow-matching models are trained and sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.rectified_flow import ResolutionShift, require_flow
from lorasmith.diffusion.timesteps.base import Ranged, TimestepSampler
from lorasmith.diffusion.timesteps.logit_normal import LogitNormal

if TYPE_CHECKING:
    from torch import Tensor


class Shifted(Ranged):
    """s(t) = f t / (1 + (f - 1) t), with t from 0 to 1 as `of` draws it (arXiv 2403.03206, equation 23).

    `shift` is the factor f; `model` is that of the model's own sampler, which for Flux depends on the size of the
    image; `flux` is that rule of Flux for any flow model; `resolution` is sqrt(tokens / base_tokens), the rule of the
    SD3 paper, for flow models only. The result is placed between `min` and `max`.
    """

    kind: Literal["shifted"] = "shifted"
    of: TimestepSampler = Field(default_factory=LogitNormal)
    shift: Annotated[float, Field(gt=0)] | Literal["model", "resolution", "flux"] = "model"
    base_tokens: int = Field(default=1024, ge=1)
    """For `resolution`: the number of tokens at which nothing is shifted; 1024 is an image of 512 x 512."""

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        factor = self.factor(path)
        u = path.fraction(self.of(rng, path))
        return self.place(factor * u / (1 + (factor - 1) * u), path)

    def factor(self, path: DiffusionPath) -> float:
        """f on this path. Raises LorasmithError for `resolution` and `flux` on a path that is not rectified flow."""
        if not isinstance(self.shift, str):
            return self.shift
        if self.shift == "model":
            return path.shift
        tokens = require_flow(path, f'objective.timesteps: shift = "{self.shift}"').tokens
        if self.shift == "flux":
            rule = ResolutionShift()
            return rule.factor(rule.base_tokens if tokens is None else tokens)
        return ((tokens or self.base_tokens) / self.base_tokens) ** 0.5

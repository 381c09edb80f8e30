"""The denoising objective: the training step as the papers write it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.data.dataset import Batch
from lorasmith.diffusion.losses import Loss
from lorasmith.diffusion.losses.mse import Mse
from lorasmith.diffusion.noise import Noise
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.diffusion.timesteps.uniform import Uniform
from lorasmith.diffusion.weightings import Weighting
from lorasmith.families.base import Family
from lorasmith.training.step.objectives.base import Objective, StepResult
from lorasmith.training.step.objectives.masked import MaskMean, mean_per_sample
from lorasmith.training.step.objectives.terms import ObjectivePart
from lorasmith.training.step.objectives.terms.evaluate import numbered, predicted


class Denoising(Objective):
    """E || output(x_t, t, c) - target ||^2, in any combination of its parts (DDPM, arXiv 2006.11239, equation 14).

    Parts are chosen independently: where t is drawn, what is done to the noise, the distance, and weights over t.
    """

    kind: Literal["denoising"] = "denoising"
    timesteps: TimestepSampler = Field(default_factory=Uniform)
    noise: tuple[Noise, ...] = ()
    loss: Loss = Field(default_factory=Mse)
    mask_mean: MaskMean = "mask"
    """How masked errors become one number: the mean over the mask, so that images count alike; `image`, the mean over
    the whole image, where a small mask counts less (sd-scripts); `channel_sum`, 4 times the first (Mix-of-Show)."""
    weightings: tuple[Weighting, ...] = ()
    parts: tuple[ObjectivePart, ...] = ()
    """Further terms of the loss; each is logged by its kind, and beside them `denoising`, the loss without them."""

    @property
    def terms(self) -> tuple[str, ...]:
        return ("denoising", *numbered(self.parts)) if self.parts else ()

    def check(self, family: Family) -> None:
        for weighting in self.weightings:
            weighting.check(family.prediction)

    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        path, prediction = family.path, family.prediction
        assert batch.latents is not None
        assert batch.conditioning is not None

        x0 = family.latents(batch.latents, rng.normal("latent", tuple(batch.latents.mean.shape[1:])))
        t = self.timesteps(rng, path)
        noise = rng.normal("noise", tuple(x0.shape[1:]))
        for change in self.noise:
            if not change.input_only:
                noise = change(noise, x0, rng)
        added = noise
        for change in self.noise:
            if change.input_only:
                added = change(added, x0, rng)
        x_t = path.add_noise(x0, added, t)

        terms: dict[str, Tensor] = {}
        if self.parts:
            output, terms = predicted(family, x_t, t, batch, self.parts)
        else:
            output = family.predict(x_t, t, batch.conditioning)
        target = prediction.target(x0, noise, t, path)
        if batch.preserve is not None:
            target = torch.where(batch.preserve[:, None, None, None] > 0, base_output(family, x_t, t, batch), target)

        error = self.loss(output, target, t, path)
        per_sample = mean_per_sample(error, batch.mask, self.mask_mean)
        weight = batch.loss_weight
        for weighting in self.weightings:
            weight = weight * weighting(t, path, prediction)
        main, count = (weight * per_sample).sum(), len(per_sample)
        loss = main + count * sum(terms.values(), per_sample.new_zeros(()))
        parts = {"denoising": main / count, **terms} if terms else {}
        return StepResult(loss, per_sample.detach(), t, {name: term.detach() for name, term in parts.items()})


def base_output(family: Family, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
    """What the network gives without adapters: the target of samples that are to stay as they are."""
    assert batch.conditioning is not None
    with torch.no_grad(), family.as_base():
        return family.predict(x_t, t, batch.conditioning)

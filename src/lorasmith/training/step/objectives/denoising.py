"""The denoising objective: the training step as the papers write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import torch
from lorasmith.diffusion.losses import Loss
from lorasmith.diffusion.losses.mse import Mse
from lorasmith.diffusion.noise import Noise
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.diffusion.timesteps.uniform import Uniform
from lorasmith.diffusion.weightings import Weighting
from lorasmith.training.step.objectives.base import Objective, StepResult
from lorasmith.training.step.objectives.masked import MaskMean, mean_per_sample
from lorasmith.training.step.objectives.terms import LossTerm
from lorasmith.training.step.objectives.terms.evaluate import predict_with_terms, terms_by_name

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng
    from lorasmith.data.dataset import Batch
    from lorasmith.families.base import Conditioning, Family


class Denoising(Objective):
    """E || output(x_t, t, c) - target ||^2, in any combination of its parts (DDPM, arXiv 2006.11239, equation 14).

    Parts are chosen independently: how t is drawn, how the noise is changed, the distance, and weights over t.
    """

    kind: Literal["denoising"] = "denoising"
    timesteps: TimestepSampler = Field(default_factory=Uniform)
    noise: tuple[Noise, ...] = ()
    loss: Loss = Field(default_factory=Mse)
    mask_mean: MaskMean = "mask"
    """How masked errors become one number: the mean over the mask, so that images count alike; `image`, the mean over
    the whole image, where a small mask counts less (sd-scripts); `channel_sum`, 4 times the first (Mix-of-Show)."""
    weightings: tuple[Weighting, ...] = ()
    parts: tuple[LossTerm, ...] = ()
    """Further terms of the loss. Each is logged by its kind, and `denoising`, the loss without them, beside them."""

    @property
    def terms(self) -> tuple[str, ...]:
        return ("denoising", *terms_by_name(self.parts)) if self.parts else ()

    def check(self, family: Family) -> None:
        for weighting in self.weightings:
            weighting.check(family.prediction)
        for term in self.parts:
            term.check(family)

    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        assert batch.latents is not None
        assert batch.conditioning is not None
        path, prediction = family.path, family.prediction

        # The clean latent: a new sample of the VAE's distribution in each step.
        x0 = family.latents(batch.latents, rng.normal("latent", tuple(batch.latents.mean.shape[1:])))

        # Noise, and what is added to x0: input perturbation changes only the latter, not the target.
        noise = rng.normal("noise", tuple(x0.shape[1:]))
        for change in self.noise:
            if not change.input_only:
                noise = change(noise, x0, rng)
        added_noise = noise
        for change in self.noise:
            if change.input_only:
                added_noise = change(added_noise, x0, rng)

        # The noisy latent and the network's output for it.
        t = self.timesteps(rng, path.for_latents(*x0.shape[-2:]))
        x_t = path.add_noise(x0, added_noise, t)
        terms: dict[str, Tensor] = {}
        if self.parts:
            output, terms = predict_with_terms(family, x_t, t, batch, self.parts)
        else:
            output = family.predict(x_t, t, batch.conditioning)

        # Samples of prior preservation are to stay as they are: their target is the output without adapters.
        target = prediction.target(x0, noise, t, path)
        if batch.preserve is not None:
            target = preserved_target(family, x_t, t, batch, target)

        # One number for each sample, times its weights.
        error = self.loss(output, target, t, path)
        per_sample = mean_per_sample(error, batch.mask, self.mask_mean)
        weight = batch.loss_weight
        for weighting in self.weightings:
            weight = weight * weighting(t, path, prediction)

        def base_errors() -> Tensor:
            base_error = self.loss(base_output(family, x_t, t, batch.conditioning), target, t, path)
            return weight * mean_per_sample(base_error, batch.mask, self.mask_mean)

        denoising_loss = self.sample_losses(weight * per_sample, base_errors).sum()

        # A sum over samples; the terms are means, so they count once for each sample.
        count = len(per_sample)
        loss = denoising_loss + count * sum(terms.values(), per_sample.new_zeros(()))
        logged: dict[str, Tensor] = {}
        if terms:
            logged["denoising"] = (denoising_loss / count).detach()
            for name, term in terms.items():
                logged[name] = term.detach()
        return StepResult(loss, per_sample.detach(), t, logged)

    def sample_losses(self, errors: Tensor, base_errors: Callable[[], Tensor]) -> Tensor:
        """From the weighted errors of the samples (B,) to their losses (B,). `base_errors()`: those of the base at the
        same x_t, which cost a pass."""
        return errors


def base_output(family: Family, x_t: Tensor, t: Tensor, conditioning: Conditioning | None) -> Tensor:
    """The output of the network without adapters, without gradients."""
    assert conditioning is not None
    with torch.no_grad(), family.as_base():
        return family.predict(x_t, t, conditioning)


def preserved_target(family: Family, x_t: Tensor, t: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """`target` with the base's output for the samples that are to be preserved."""
    assert batch.preserve is not None
    assert batch.conditioning is not None
    preserved = batch.preserve > 0
    if x_t.device.type != "cpu":
        # which samples these are is known on the device only, and a CUDA graph has one shape
        output = base_output(family, x_t, t, batch.conditioning)
        return torch.where(preserved[:, None, None, None], output, target)
    rows = preserved.nonzero()[:, 0]
    if len(rows) == 0:
        return target
    return target.index_copy(0, rows, base_output(family, x_t[rows], t[rows], batch.conditioning.rows(rows)))

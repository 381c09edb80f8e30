"""A third prediction on a continuous path: rectified flow (arXiv 2209.03003), defined here alone.

Nothing outside the path may index by t or know the prediction by its class.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath, broadcast
from lorasmith.diffusion.prediction import Epsilon, Prediction, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule, require_schedule
from lorasmith.diffusion.timesteps.logit_normal import LogitNormal
from lorasmith.diffusion.timesteps.stratified import Stratified
from lorasmith.diffusion.timesteps.uniform import Uniform
from lorasmith.diffusion.weightings import Weighting
from lorasmith.diffusion.weightings.debiased import Debiased
from lorasmith.diffusion.weightings.min_snr import MinSnr
from lorasmith.diffusion.weightings.v_like import VLike
from lorasmith.diffusion.weightings.v_scale import VScale
from lorasmith.training.step.objectives.denoising import Denoising

SHAPE = (4, 16, 6, 8)


class RectifiedFlow(DiffusionPath):
    """x_t = (1 - t) x0 + t noise, t in [0, 1]."""

    @property
    def steps(self) -> int:
        return 1000

    def to(self, device: torch.device | str) -> RectifiedFlow:
        return self

    def alpha(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast(1 - t, like)

    def sigma(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast(t, like)

    def from_step(self, step: Tensor) -> Tensor:
        return step.float() / self.steps

    def fraction(self, t: Tensor) -> Tensor:
        return t

    def network_time(self, t: Tensor) -> Tensor:
        return 1000 * t


class Velocity(Prediction):
    """u = noise - x0. Without a kind, so that it is not registered."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return noise - x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return x_t - path.sigma(t, x_t) * output

    def x0_weight(self, t: Tensor, path: DiffusionPath) -> Tensor:
        return 1 / path.sigma(t) ** 2


PATH = RectifiedFlow()
T = torch.tensor([0.02, 0.3, 0.5, 0.97])


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def rng(samples: int = 4, step: int = 3) -> StepRng:
    return StepRng(11, step, list(range(samples)))


def test_min_snr_of_a_velocity() -> None:
    """min(snr, gamma) / w with w = 1 / t^2, not epsilon's weight."""
    snr = ((1 - T) / T) ** 2
    torch.testing.assert_close(MinSnr(gamma=5.0)(T, PATH, Velocity()), snr.clamp(max=5.0) * T**2)


def test_v_scale_of_a_velocity() -> None:
    """snr / w = (1 - t)^2, below the bound of snr."""
    below = T[1:]
    torch.testing.assert_close(VScale()(below, PATH, Velocity()), (1 - below) ** 2)


def test_weights_of_a_velocity_are_finite_at_both_ends() -> None:
    ends = torch.tensor([0.0, 1.0])
    for weighting in (MinSnr(), VScale()):
        assert bool(weighting(ends, PATH, Velocity()).isfinite().all())


@pytest.mark.parametrize("weighting", [Debiased(), VLike()], ids=lambda w: w.kind)
def test_weightings_without_a_formula_refuse(weighting: Weighting) -> None:
    with pytest.raises(LorasmithError, match=r"epsilon and v_prediction only; this model predicts \"Velocity\""):
        weighting(T, PATH, Velocity())
    objective = Denoising(weightings=(weighting,))
    with pytest.raises(LorasmithError, match=r"objective\.weightings"):
        objective.check(SimpleNamespace(prediction=Velocity()))  # type: ignore[arg-type]
    for prediction in (Epsilon(), VPrediction()):
        objective.check(SimpleNamespace(prediction=prediction))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [Uniform, LogitNormal, Stratified])
def test_timesteps_of_a_continuous_path(sampler: Callable[..., Any]) -> None:
    drawn = torch.cat([sampler(min=200, max=600)(rng(step=step), PATH) for step in range(200)])
    assert drawn.dtype == torch.float32
    assert 0.2 <= float(drawn.min()) < 0.25
    assert 0.55 < float(drawn.max()) <= 0.6
    assert len(drawn.unique()) > 700


def test_a_ddpm_path_is_asked_for_by_name() -> None:
    assert require_schedule(NoiseSchedule.linear(), "x").steps == 1000
    with pytest.raises(LorasmithError, match=r"the sampler \"ddim\" needs a model with a discrete noise schedule"):
        require_schedule(PATH, 'the sampler "ddim"')


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_the_denoising_objective_with_min_snr(loss: str) -> None:
    """The whole step on a stub family, beside the loss written out by hand."""
    x0, output = normal(0), normal(1)
    seen: dict[str, Tensor] = {}

    def predict(x_t: Tensor, t: Tensor, conditioning: object) -> Tensor:
        seen.update(x_t=x_t, t=PATH.network_time(t))
        return output

    family: Any = SimpleNamespace(
        path=PATH,
        prediction=Velocity(),
        vocabulary=None,
        new_token_index=lambda _: None,
        latents=lambda *_: x0,
        predict=predict,
        as_base=nullcontext,
    )
    conditioning: Any = object()
    batch: Any = SimpleNamespace(
        latents=SimpleNamespace(mean=x0), conditioning=conditioning, preserve=None, mask=None, loss_weight=torch.ones(4)
    )
    objective = Denoising.model_validate({"weightings": ["min_snr"], "loss": loss, "timesteps": "logit_normal"})
    result = objective(family, batch, rng())

    t = rng().normal("timesteps", ()).sigmoid()
    noise = rng().normal("noise", SHAPE[1:])
    at = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(result.t, t)
    torch.testing.assert_close(seen["t"], 1000 * t)
    torch.testing.assert_close(seen["x_t"], (1 - at) * x0 + at * noise)
    d = output - (noise - x0)
    if loss == "mse":
        error = d**2
    else:
        width = 0.9 * (1 - at) ** 2 + 0.1  # (1 - c) / (1 + sigma / alpha)^2 + c, and alpha + sigma = 1
        error = 2 * width * ((d**2 + width**2).sqrt() - width)
    weight = (((1 - t) / t) ** 2).clamp(max=5.0) * t**2
    expected = (weight * error.mean((1, 2, 3))).sum()
    torch.testing.assert_close(result.loss, expected, rtol=1e-4, atol=1e-5)

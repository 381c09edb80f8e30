"""Flow matching: the straight path, its timesteps and weightings, beside diffusers and the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.prediction import Epsilon, Velocity
from lorasmith.diffusion.rectified_flow import RectifiedFlow, ResolutionShift, require_flow, shifted
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps.logit_normal import LogitNormal
from lorasmith.diffusion.timesteps.mode import Mode
from lorasmith.diffusion.timesteps.shifted import Shifted
from lorasmith.diffusion.timesteps.uniform import Uniform
from lorasmith.diffusion.weightings.cosmap import CosMap
from lorasmith.diffusion.weightings.min_snr import MinSnr
from lorasmith.diffusion.weightings.sigma_sqrt import SigmaSqrt

PATH = RectifiedFlow()
T = torch.tensor([0.001, 0.25, 0.5, 0.75, 1.0])
SHAPE = (5, 16, 4, 6)


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def rng(step: int = 3, samples: int = 4) -> StepRng:
    return StepRng(11, step, list(range(samples)))


def test_x_t_is_that_of_diffusers_scheduler() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    steps = scheduler.timesteps[torch.tensor([0, 100, 500, 900, 999])]
    expected = scheduler.scale_noise(normal(0), steps, normal(1))
    torch.testing.assert_close(PATH.add_noise(normal(0), normal(1), PATH.from_step(steps)), expected)
    torch.testing.assert_close(PATH.network_time(PATH.from_sampler(steps)), steps)


def test_velocity_is_the_derivative_of_x_t() -> None:
    x0, noise = normal(0), normal(1)
    x_t = PATH.add_noise(x0, noise, T)
    target = Velocity().target(x0, noise, T, PATH)
    torch.testing.assert_close(target, (PATH.add_noise(x0, noise, T + 0.5) - x_t) / 0.5, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(Velocity().x0(target, x_t, T, PATH), x0)
    torch.testing.assert_close(Velocity().x0_weight(T, PATH), 1 / T**2)


@pytest.mark.parametrize(("width", "tokens"), [(1024, 4096), (512, 1024), (256, 256)])
def test_resolution_shift_is_that_of_flux(width: int, tokens: int) -> None:
    """mu is 0.5 at 256 tokens and 1.15 at 4096 (calculate_shift of diffusers' pipeline, get_lin_function of BFL's)."""
    path = RectifiedFlow(resolution_shift=ResolutionShift()).for_latents(width // 8, width // 8)
    assert path.tokens == tokens
    assert path.shift == pytest.approx(math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)))


def test_mode_is_the_density_of_diffusers() -> None:
    """Equal quantiles of many draws, and of draws by diffusers' code."""
    drawn = torch.cat([Mode(scale=1.29)(rng(step, 64), PATH) for step in range(300)])
    theirs = compute_density_for_timestep_sampling(
        "mode", 19200, mode_scale=1.29, generator=torch.Generator().manual_seed(0)
    )
    at = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(drawn.quantile(at), theirs.quantile(at), atol=0.015, rtol=0)
    with pytest.raises(ValueError, match=r"less than or equal to 1\.7"):
        Mode(scale=1.8)


def test_shifted_timesteps() -> None:
    plain = LogitNormal()(rng(), PATH)
    for factor in (3.0, 0.5):
        torch.testing.assert_close(Shifted(shift=factor)(rng(), PATH), factor * plain / (1 + (factor - 1) * plain))
    torch.testing.assert_close(Shifted()(rng(), RectifiedFlow(fixed_shift=3.0)), Shifted(shift=3.0)(rng(), PATH))
    uniform = Shifted.model_validate({"of": "uniform", "shift": 2.0})(rng(), PATH)
    torch.testing.assert_close(uniform, 2 * Uniform()(rng(), PATH) / (1 + Uniform()(rng(), PATH)))


def test_shift_by_resolution() -> None:
    """sqrt(m / n): 2 for four times the tokens (arXiv 2403.03206, equation 23)."""
    large = PATH.for_latents(128, 128)
    assert Shifted(shift="resolution").factor(large) == pytest.approx(2.0)
    assert Shifted(shift="resolution").factor(PATH.for_latents(64, 64)) == pytest.approx(1.0)
    with pytest.raises(LorasmithError, match=r"shift = \"resolution\" needs a flow-matching model"):
        Shifted(shift="resolution").factor(NoiseSchedule.linear())


@pytest.mark.parametrize(("weighting", "name"), [(SigmaSqrt(), "sigma_sqrt"), (CosMap(), "cosmap")])
def test_weightings_are_those_of_diffusers(weighting: SigmaSqrt | CosMap, name: str) -> None:
    torch.testing.assert_close(weighting(T, PATH, Velocity()), compute_loss_weighting_for_sd3(name, T))
    with pytest.raises(LorasmithError, match=r"velocity only; this model predicts \"epsilon\""):
        weighting.check(Epsilon())
    assert bool(weighting(torch.zeros(1), PATH, Velocity()).isfinite().all())


def test_min_snr_of_velocity() -> None:
    torch.testing.assert_close(MinSnr()(T, PATH, Velocity()), ((1 - T) / T).square().clamp(max=5.0) * T**2)


def test_other_paths_are_refused_by_name() -> None:
    assert require_flow(PATH, "x") is PATH
    with pytest.raises(LorasmithError, match=r"x needs a flow-matching model .* NoiseSchedule"):
        require_flow(NoiseSchedule.linear(), "x")
    assert shifted(0.5, 3.0) == pytest.approx(0.75)

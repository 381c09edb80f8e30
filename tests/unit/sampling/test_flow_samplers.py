"""Samplers on the straight path, beside diffusers' pipelines and beside exact solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.rectified_flow import RectifiedFlow, ResolutionShift
from lorasmith.sampling import samplers
from lorasmith.sampling.flow_samplers import FLOW_SAMPLERS

SD3 = RectifiedFlow(fixed_shift=3.0)
FLUX = RectifiedFlow(resolution_shift=ResolutionShift()).for_latents(128, 96)


def drawn(name: str, path: RectifiedFlow, steps: int, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A picture of a network that knows x0."""
    scheduler = samplers.make_scheduler(name, path, "velocity")
    samplers.set_timesteps(scheduler, steps, path=path)
    for t in scheduler.timesteps:
        x_t = samplers.scale_input(scheduler, x, t)
        at = float(path.from_sampler(t))
        x = scheduler.step((x_t - x0) / at, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize("path", [SD3, FLUX], ids=["sd3", "flux"])
@pytest.mark.parametrize("name", FLOW_SAMPLERS)
def test_every_sampler_ends_at_x0_of_a_perfect_network(name: str, path: RectifiedFlow, steps: int) -> None:
    x0 = torch.linspace(-2, 2, 64).view(1, 4, 4, 4)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn(name, path, steps, x0, noise), x0, atol=0.02, rtol=0)


def test_times_are_those_of_diffusers_sd3_pipeline() -> None:
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(28)
    ours = samplers.make_scheduler("euler", SD3, "velocity")
    samplers.set_timesteps(ours, 28, path=SD3)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)


def test_times_are_those_of_diffusers_flux_pipeline() -> None:
    theirs: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = 0.5 + (1.15 - 0.5) * (64 * 48 - 256) / (4096 - 256)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28).tolist(), mu=mu)
    ours = samplers.make_scheduler("euler", FLUX, "velocity")
    samplers.set_timesteps(ours, 28, path=FLUX)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)


def test_samplers_of_other_paths_are_refused() -> None:
    with pytest.raises(LorasmithError, match=r'"Euler a" cannot draw with a flow-matching model .*those that can'):
        samplers.make_scheduler("Euler a", SD3, "velocity")
    with pytest.raises(LorasmithError, match=r'no sampler is called "eular"'):
        samplers.make_scheduler("eular", SD3, "velocity")

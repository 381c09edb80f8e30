"""Samplers of plug-ins: found by name, exact on every path, drawn from the seeds of the pictures."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.rectified_flow import RectifiedFlow
from lorasmith.families.load import load
from lorasmith.sampling import samplers
from lorasmith.sampling.custom.base import Sampler, Step
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from lorasmith.sampling.step_scheduler import StepScheduler


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> type[Sampler]:
    """DDIM as a plug-in would write it, and a sampler that only draws noise."""
    monkeypatch.setattr(Sampler, "_kinds", dict(registered(Sampler)))

    class Plain(Sampler):
        kind: Literal["plain_ddim"] = "plain_ddim"

        def step(self, step: Step) -> Tensor:
            return step.next_alpha * step.x0 + step.next_sigma * step.noise

    class Random(Sampler):
        kind: Literal["random_test"] = "random_test"

        def step(self, step: Step) -> Tensor:
            return step.draw()

    return Plain


def perfect(scheduler: Any, x0: Tensor, noise: Tensor) -> Tensor:
    """What a sampler draws with a network that knows x0 and the noise."""
    path, prediction = scheduler.path, scheduler.prediction
    x = path.add_noise(x0, noise, path.from_sampler(scheduler.timesteps[:1].expand(len(x0))))
    for t in scheduler.timesteps:
        (x,) = scheduler.step(prediction.target(x0, noise, path.from_sampler(t.expand(len(x0))), path), t, x)
    return x


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_network_is_followed_to_its_picture_on_a_noise_schedule(plain: type[Sampler], kind: str) -> None:
    scheduler = StepScheduler(plain(), load("tiny-sd").path, prediction_of_kind(kind))
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[0] == 999
    x0, noise = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1)).unbind()
    torch.testing.assert_close(perfect(scheduler, x0, noise), x0, atol=2e-3, rtol=0)


def test_a_perfect_network_is_followed_to_its_picture_on_the_straight_path(plain: type[Sampler]) -> None:
    scheduler = samplers.make_scheduler("plain_ddim", RectifiedFlow(fixed_shift=3.0), "velocity")
    samplers.set_timesteps(scheduler, 5, path=scheduler.path)
    x0, noise = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1)).unbind()
    torch.testing.assert_close(perfect(scheduler, x0, noise), x0, atol=1e-5, rtol=0)


def test_its_steps_are_those_of_diffusers_ddim(plain: type[Sampler]) -> None:
    """With the same times, from another implementation: diffusers' DDIM with trailing spacing."""
    from diffusers import DDIMScheduler

    path = load("tiny-sd").path
    ours = StepScheduler(plain(), path, prediction_of_kind("epsilon"))
    ours.set_timesteps(5)
    betas = 1 - path.alphas_cumprod / torch.cat([torch.ones(1), path.alphas_cumprod[:-1]])  # type: ignore[attr-defined]
    theirs: Any = DDIMScheduler(trained_betas=betas.tolist(), timestep_spacing="trailing", clip_sample=False)
    theirs.set_timesteps(5)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    x = other = torch.randn(2, 4, 4, 4, generator=generator)
    for t in ours.timesteps:
        output = torch.randn(2, 4, 4, 4, generator=generator)
        x, other = ours.step(output, t, x)[0], theirs.step(output, t, other, return_dict=False)[0]
    torch.testing.assert_close(x, other, rtol=2e-4, atol=2e-4)


def test_noise_of_a_step_is_that_of_the_picture_and_not_of_its_batch(plain: type[Sampler]) -> None:
    family = load("tiny-sd")
    requests = [
        Request("a cat", seed=seed, steps=2, cfg=1, width=64, height=64, sampler="random_test") for seed in (1, 2)
    ]
    together = sample(family, requests)
    alone = sample(family, requests[1:])
    assert torch.equal(together[1].pixels, alone[0].pixels)
    assert not torch.equal(together[0].pixels, alone[0].pixels)


def test_a_sampler_is_found_by_any_spelling_and_listed_in_errors(plain: type[Sampler]) -> None:
    assert samplers.find("Plain DDIM").label == "plain_ddim"
    with pytest.raises(LorasmithError, match=r'did you mean "plain_ddim".*unipc, plain_ddim'):
        samplers.find("plain_dim")

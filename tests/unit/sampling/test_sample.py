"""Drawing: independent of batches, devices' generators and other pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.families.base import Family
from lorasmith.sampling import samplers
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

BASE = Request("a cat on a mat", negative="blurry", steps=3, width=64, height=48)


def usable(name: str) -> bool:
    try:
        samplers.make_scheduler(name, NoiseSchedule.scaled_linear(), "epsilon")
    except LorasmithError:
        return False
    return True


NAMES = [name for name in samplers.SAMPLERS if usable(name)]
SCHEDULES = {False: NoiseSchedule.scaled_linear(), True: NoiseSchedule.scaled_linear().zero_terminal_snr()}
"""By whether they end in pure noise."""


@cache
def made_scheduler(name: str, terminal: bool) -> Any:
    """Some schedulers of diffusers take a second to make, for the table of all their timesteps."""
    return samplers.make_scheduler(name, SCHEDULES[terminal], "v_prediction")


def new_scheduler(name: str, terminal: bool, steps: int) -> Any:
    """A scheduler that no other test has used, set to a number of steps."""
    scheduler = copy.deepcopy(made_scheduler(name, terminal))
    samplers.set_timesteps(scheduler, steps)
    return scheduler


@pytest.mark.slow_except("ddim", "heun", "euler_a", "dpm++_2m*")
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_draws_the_same_alone_and_in_company(family: Family, name: str) -> None:
    requests = [replace(BASE, sampler=name, seed=seed, prompt=p) for seed, p in ((3, "a cat"), (4, "a (dog:1.4)"))]
    together = sample(family, requests)
    state = torch.get_rng_state()
    alone = [sample(family, [r])[0] for r in requests]
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(together, alone, strict=True):
        assert a.pixels.shape == (3, 48, 64)
        assert float(a.pixels.std()) > 0.01
        torch.testing.assert_close(a.pixels, b.pixels, atol=2e-3, rtol=0)
    assert not torch.allclose(together[0].pixels, together[1].pixels, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_every_sampler_ends_at_x0_of_a_perfect_network(name: str, terminal: bool) -> None:
    """With a network that knows x0, each sampler must find it, from pure noise too."""
    schedule = SCHEDULES[terminal]
    x0 = torch.linspace(-2, 2, 64).view(1, 4, 4, 4)
    scheduler = new_scheduler(name, terminal, 25)
    x = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        at = torch.tensor([float(t)]).clamp(0, 999)
        low, part = at.floor().long(), at.frac()
        abar = torch.lerp(schedule.alphas_cumprod[low], schedule.alphas_cumprod[(low + 1).clamp(max=999)], part)
        alpha, sigma = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
        x_t = scheduler.scale_model_input(x, t)
        noise = (x_t - alpha * x0) / sigma
        x = scheduler.step(alpha * noise - sigma * x0, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, x0, atol=0.15, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_steps(name: str, steps: int) -> None:
    for terminal in SCHEDULES:
        scheduler = new_scheduler(name, terminal, steps)
        x = torch.ones(1, 4, 4, 4) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, t) * 0.5, t, x, return_dict=False)[0]
        assert bool(x.isfinite().all())


def test_names_of_other_tools() -> None:
    for name in ("Euler a", "k_euler_a", "EULER_A"):
        assert samplers.find(name) is samplers.SAMPLERS["euler_a"]
    for name, sampler in samplers.SAMPLERS.items():
        assert samplers.find(sampler.label) is sampler or name == "dpm++_2s"
    with pytest.raises(LorasmithError, match=r'no sampler is called "eular"; did you mean "euler"'):
        samplers.find("eular")


@pytest.mark.parametrize("kind", [pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_other_families(loaded: Callable[[str], Family], kind: str) -> None:
    family = loaded(kind)
    first, again = sample(family, [BASE, BASE])
    torch.testing.assert_close(first.pixels, again.pixels)
    other = sample(family, [replace(BASE, prompt="a dog")])[0]
    assert not torch.allclose(first.pixels, other.pixels, atol=1e-3)


def test_a_long_prompt_beside_a_short_one_does_not_change_it(family: Family) -> None:
    long = replace(BASE, prompt="cat " * 90)
    together = sample(family, [BASE, long])
    torch.testing.assert_close(together[0].pixels, sample(family, [BASE])[0].pixels, atol=2e-3, rtol=0)
    cut = sample(family, [replace(BASE, prompt="cat " * 75)])[0]
    assert not torch.allclose(together[1].pixels, cut.pixels, atol=1e-3)


def test_what_is_asked_for_matters(family: Family) -> None:
    plain = sample(family, [BASE])[0].pixels
    for change in (
        {"seed": 1},
        {"prompt": "a dog"},
        {"negative": ""},
        {"cfg": 3.0},
        {"steps": 4},
        {"sampler": "euler"},
        {"clip_skip": 2},
        {"rescale": 0.7},
        {"prompt": "a (cat:1.5) on a mat"},
    ):
        assert not torch.allclose(sample(family, [replace(BASE, **change)])[0].pixels, plain, atol=1e-4), change


def test_without_guidance_the_negative_prompt_is_not_asked(family: Family) -> None:
    one, two = (sample(family, [replace(BASE, cfg=1.0, negative=n)])[0].pixels for n in ("", "blurry " * 90))
    assert torch.equal(one, two)


def test_pictures_come_in_order_and_each_as_soon_as_it_is_there(family: Family) -> None:
    class Counting(Progress):
        total = done = 0

        @contextmanager
        def track(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
            self.total = total

            def advance(units: int, note: str) -> None:
                self.done += units

            yield advance

    sizes = [(64, 64), (48, 64), (64, 64), (48, 64), (64, 64)]
    requests = [replace(BASE, width=w, height=h, seed=i, steps=2) for i, (w, h) in enumerate(sizes)]
    progress, seen = Counting(), []
    pictures = sample(family, requests, batch_size=2, progress=progress, on_picture=lambda i, p: seen.append(i))
    assert [p.request for p in pictures] == requests
    assert sorted(seen) == list(range(5))
    assert progress.done == progress.total == 10


def test_a_picture_that_is_not_finite_is_told(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listening(Progress):
        said: list[str] = []  # noqa: RUF012

        def say(self, text: str) -> None:
            self.said.append(text)

    monkeypatch.setattr(type(family), "decode", lambda self, x0: torch.full((1, 3, 8, 8), float("nan")))
    picture = sample(family, [BASE], progress=Listening())[0]
    assert "not finite" in Listening.said[0]
    assert bool((picture.pixels == -1).all())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 100}, "multiple of 8"),
        ({"height": 0}, "multiple of 8"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2000}, "steps is 2000"),
        ({"sampler": "magic"}, "no sampler"),
        ({"clip_skip": 0}, "clip_skip"),
        ({"rescale": 2.0}, "rescale"),
    ],
)
def test_what_no_picture_can_have(values: dict[str, object], message: str) -> None:
    with pytest.raises(LorasmithError, match=message):
        replace(BASE, **values)  # type: ignore[arg-type]

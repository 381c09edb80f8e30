"""Which weights of a run are the best: constructed runs whose answer is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from lorasmith.training.output.best import Choice, HeldOutLoss, choose, losses_by_step

STEPS = range(100, 1100, 100)


def run_of(curve: Callable[[int], float], noise: float = 0.0005, images: int = 6, seed: int = 0) -> list[HeldOutLoss]:
    """A run whose images differ much in their losses, as real ones do, and follow a curve with a little noise."""
    draw = random.Random(seed)
    levels = [draw.uniform(0.05, 0.25) for _ in range(images)]
    return [HeldOutLoss(step, tuple(level + curve(step) + draw.gauss(0, noise) for level in levels)) for step in STEPS]


def pick(curve: Callable[[int], float], **settings: float) -> Choice:
    return choose(run_of(curve, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_of_a_run_that_overfits_the_weights_before_the_rise_are_picked(seed: int) -> None:
    # the lowest is at step 400; afterwards images differ a hundred times more from each other than the curve rises
    choice = pick(lambda step: 0.01 * (step / 400 - 1) ** 2, seed=seed)
    assert choice.best.step in (300, 400, 500)
    assert "later ones are worse, step 1,000 by 0.0" in choice.reason
    assert not choice.weak


@pytest.mark.parametrize("seed", range(5))
def test_of_a_run_that_still_improves_the_last_weights_are_picked(seed: int) -> None:
    choice = pick(lambda step: 0.02 * 0.5 ** (step / 400), seed=seed)
    assert choice.best.step == choice.last.step == 1000


def test_of_a_run_that_is_noise_the_last_weights_are_kept() -> None:
    picked = [pick(lambda step: 0.0, noise=0.01, seed=seed).best.step for seed in range(40)]
    # nothing speaks for an earlier step; the lowest of ten is a draw, so that now and then the last one seems worse
    assert sum(step == 1000 for step in picked) >= 24
    assert min(picked) >= 500


def test_noise_is_called_noise() -> None:
    choice = choose([HeldOutLoss(1, (0.10, 0.20, 0.15, 0.12)), HeldOutLoss(2, (0.11, 0.195, 0.152, 0.125))])
    assert choice.best.step == 2
    assert "not distinguishable from the lowest, 0.1425 at step 1 (difference 0.0030, 90 % interval -0.00" in (
        choice.reason
    )


def test_of_a_flat_run_the_last_weights_are_picked() -> None:
    choice = pick(lambda step: 0.0, noise=0.0)
    assert choice.best.step == 1000


def test_few_images_are_called_weak_evidence() -> None:
    choice = pick(lambda step: 0.01 * (step / 400 - 1) ** 2, images=3)
    assert choice.weak
    assert "on 3 held-out images" in choice.reason
    assert "weak evidence: hold 4 images or more out" in choice.reason


def test_of_one_image_the_timesteps_are_compared() -> None:
    early = HeldOutLoss(1, (0.1,), (0.05, 0.1, 0.15))
    worse = HeldOutLoss(2, (0.15,), (0.10, 0.15, 0.20))
    unclear = HeldOutLoss(2, (0.11,), (0.02, 0.20, 0.11))
    assert choose([early, worse]).best.step == 1
    assert choose([early, unclear]).best.step == 2
    assert "1 held-out image;" in choose([early, worse]).reason


def test_a_run_that_is_no_better_than_its_start_is_said_to_be() -> None:
    start = HeldOutLoss(0, (0.1, 0.2, 0.3, 0.15))
    same = HeldOutLoss(10, (0.1001, 0.1999, 0.3, 0.15))
    better = HeldOutLoss(10, (0.09, 0.189, 0.288, 0.141))
    assert "not distinguishable from the start of the run, 0.1875" in choose([same], start).reason
    assert "start of the run" not in choose([better], start).reason


@pytest.mark.parametrize("images", [2, 3, 4])
def test_a_run_is_better_than_its_start_if_every_image_improves(images: int) -> None:
    """By 0.5, 0.02 and less: Student's interval contains 0."""
    start = HeldOutLoss(0, (0.7, 0.07, 0.06, 0.05)[:images])
    end = HeldOutLoss(10, (0.2, 0.05, 0.05, 0.04)[:images])
    assert start.minus(end).low < 0
    assert not choose([end], start).no_better_than_start
    one_is_worse = HeldOutLoss(10, (*end.by_image[:-1], start.by_image[-1] + 0.01))
    assert choose([one_is_worse], start).no_better_than_start


def test_losses_are_read_from_events_of_all_versions() -> None:
    events = [
        {"event": "validation", "step": 0, "loss": 0.2},
        {"event": "validation", "step": 5, "loss": None, "by_image": [None, 0.1]},
        {"event": "validation", "step": 10, "by_image": [0.3, 0.1, 0.4]},
        {"event": "validation", "step": 20, "by_image": [0.3, 0.1], "by_t": {"100": 0.2}},
        {"event": "validation", "step": 25, "by_image": [0.3, math.nan]},
        {"event": "validation", "step": 30, "by_image": [0.9, 0.9]},
        {"event": "validation", "step": 30, "by_image": [0.2, 0.1]},
    ]
    losses = losses_by_step(events)
    # step 10 was measured on other images
    assert list(losses) == [20, 30]
    assert losses[30].by_image == (0.2, 0.1)
    assert losses[20].by_timestep == (0.2,)

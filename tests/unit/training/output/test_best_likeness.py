"""Which weights of a run are the best by likeness: constructed runs whose answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lorasmith.core.quality import Values, numbers_of, to_json
from lorasmith.training.output.best_likeness import Likeness, LikenessChoice, choose_by_likeness, likeness_by_step

STEPS = range(100, 700, 100)


def pick(curve: Callable[[int], float], noise: float = 0.02, seed: int = 0, seeds: int = 4) -> LikenessChoice:
    """The choice of a run whose prompts differ much in likeness, and follow a curve with some noise."""
    draw = random.Random(seed)
    levels = [draw.uniform(0.2, 0.6) for _ in range(4)]
    measured: list[Likeness] = []
    for step in STEPS:
        rows = tuple(tuple(level + curve(step) + draw.gauss(0, noise) for _ in range(seeds)) for level in levels)
        interval = Values(rows).interval()
        assert interval is not None
        measured.append(Likeness(step, Values(rows), interval.mean))
    return choose_by_likeness(measured)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_run_that_spoils_its_subject_the_weights_before_are_picked(seed: int) -> None:
    choice = pick(lambda step: -0.3 * (step / 300 - 1) ** 2, seed=seed)
    assert choice.best.step in (300, 400)
    assert "later ones are less alike, step 600 by 0." in choice.reason


@pytest.mark.parametrize("seed", range(5))
def test_of_a_run_that_still_improves_the_last_weights_are_picked(seed: int) -> None:
    assert pick(lambda step: step / 1000, seed=seed).best.step == 600


@pytest.mark.slow
def test_of_a_run_that_is_noise_the_last_weights_are_kept() -> None:
    picked = [pick(lambda step: 0.0, noise=0.05, seed=seed).best.step for seed in range(20)]
    # the highest of six is a draw, so that now and then the last one seems lower
    assert sum(step == 600 for step in picked) >= 12


def test_of_a_flat_run_the_last_weights_are_picked() -> None:
    choice = pick(lambda step: 0.0, noise=0.0)
    assert choice.best.step == 600
    assert "not distinguishable from the highest" in choice.reason


def test_few_pictures_are_called_weak_evidence() -> None:
    assert "weak evidence: draw 8 pictures or more" in pick(lambda step: step / 1000, seeds=1).reason


def test_of_one_picture_each_the_last_weights_are_kept_whatever_it_shows() -> None:
    measured = [Likeness(step, Values(((likeness,),)), likeness) for step, likeness in ((10, 0.9), (20, 0.2))]
    choice = choose_by_likeness(measured)
    assert choice.best.step == 20
    assert "not distinguishable from the highest, 0.9000 at step 10 (difference 0.7000)" in choice.reason


def test_a_number_of_one_picture_is_read_back() -> None:
    values = {"likeness": Values(((0.5,),))}
    event = {"step": 3, "numbers": to_json(numbers_of(values)), "values": {"likeness": values["likeness"].to_json()}}
    assert likeness_by_step([event])[3].mean == 0.5


def test_events_without_likeness_are_left_out() -> None:
    values = {"likeness": Values(((0.5, 0.6),))}
    good = {"numbers": to_json(numbers_of(values)), "values": {"likeness": values["likeness"].to_json()}}
    events = [{"step": 10, **good}, {"step": 5, "numbers": {}, "values": {}}, {"step": 20, "numbers": None}]
    assert list(likeness_by_step(events)) == [10]
    assert likeness_by_step(events)[10].mean == pytest.approx(0.55)

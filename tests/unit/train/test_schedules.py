"""Learning rate schedules against those of transformers."""

import pytest
import torch
from transformers import get_scheduler

from lorasmith.core.registry import registered
from lorasmith.train.schedules import (
    Constant,
    Cosine,
    CosineWithRestarts,
    InverseSqrt,
    Linear,
    LrSchedule,
    Polynomial,
    WarmupStableDecay,
)

TOTAL = 40


def theirs(name: str, warmup: int, **extra: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=extra or None)
    rates = []
    for _ in range(TOTAL):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "name", "extra"),
    [
        (Constant(), "constant_with_warmup", {}),
        (Linear(), "linear", {}),
        (Cosine(), "cosine", {}),
        (CosineWithRestarts(cycles=3), "cosine_with_restarts", {"num_cycles": 3}),
        (Polynomial(power=2.0), "polynomial", {"power": 2.0, "lr_end": 0.0}),
        (InverseSqrt(timescale=7), "inverse_sqrt", {"timescale": 7}),
        (InverseSqrt(), "inverse_sqrt", {}),
        (WarmupStableDecay(decay=12, end=0.1), "warmup_stable_decay", {"num_decay_steps": 12, "min_lr_ratio": 0.1}),
        (WarmupStableDecay(decay=0.25), "warmup_stable_decay", {"num_decay_steps": 10}),
    ],
)
def test_shapes_equal_transformers(ours: LrSchedule, name: str, extra: dict) -> None:
    assert [ours.factor(i, TOTAL) for i in range(TOTAL)] == pytest.approx(theirs(name, 0, **extra), abs=1e-6)


@pytest.mark.parametrize("kind", sorted(registered(LrSchedule)))
def test_warm_up_rises_to_one_and_never_starts_at_zero(kind: str) -> None:
    schedule = registered(LrSchedule)[kind](warmup=0.25)
    rates = [schedule.factor(i, TOTAL) for i in range(TOTAL)]
    assert 0 < rates[0] < rates[5] < rates[9] < 1
    assert rates[10] == pytest.approx(1, abs=1e-6)
    assert schedule.model_copy(update={"warmup": 10}).factor(4, TOTAL) == rates[4]


def test_inverse_sqrt_falls_over_the_steps_of_its_warm_up() -> None:
    ours = InverseSqrt(warmup=8)
    assert [ours.factor(i, TOTAL) for i in range(8, TOTAL)] == pytest.approx(theirs("inverse_sqrt", 8)[8:], abs=1e-6)

"""Learning rate schedules against those of transformers."""

import pytest
import torch
from transformers import get_scheduler

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.training.step.lr_schedules import (
    AnySchedule,
    Constant,
    Cosine,
    CosineWithRestarts,
    InverseSqrt,
    Linear,
    LrSchedule,
    PiecewiseConstant,
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


def test_pieces_equal_diffusers() -> None:
    from diffusers.optimization import get_piecewise_constant_schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_piecewise_constant_schedule(optimizer, "1:10,0.1:20,0.01")
    ours = PiecewiseConstant(pieces=((1.0, 10), (0.1, 20)), end=0.01)
    for step in range(TOTAL):
        assert ours.factor(step, TOTAL) == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match="rising steps"):
        PiecewiseConstant(pieces=((1.0, 10), (0.1, 10)))


def test_a_class_of_torch_is_run_beforehand() -> None:
    ours = AnySchedule(name="CosineAnnealingLR", args={"T_max": TOTAL})
    assert [ours.factor(i, TOTAL) for i in range(TOTAL)] == pytest.approx(
        [Cosine().factor(i, TOTAL) for i in range(TOTAL)], abs=1e-6
    )
    warm = AnySchedule(name="torch.optim.lr_scheduler.StepLR", args={"step_size": 3, "gamma": 0.5}, warmup=2)
    assert [warm.factor(i, 10) for i in range(8)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.5, 0.5, 0.5])
    for name, args in (("Banana", {}), ("StepLR", {}), ("ReduceLROnPlateau", {})):
        with pytest.raises(LorasmithError, match=f'"{name}".* cannot be used'):
            AnySchedule(name=name, args=args).factor(0, 10)


FIELDS = {"piecewise_constant": {"pieces": ((1.0, 5),)}, "class": {"name": "ConstantLR", "args": {"factor": 1.0}}}


@pytest.mark.parametrize("kind", sorted(registered(LrSchedule)))
def test_warm_up_rises_to_one_and_never_starts_at_zero(kind: str) -> None:
    schedule = registered(LrSchedule)[kind](**FIELDS.get(kind, {}), warmup=0.25)
    rates = [schedule.factor(i, TOTAL) for i in range(TOTAL)]
    assert 0 < rates[0] < rates[5] < rates[9] < 1
    assert rates[10] == pytest.approx(1, abs=1e-6)
    assert schedule.model_copy(update={"warmup": 10}).factor(4, TOTAL) == rates[4]


def test_inverse_sqrt_falls_over_the_steps_of_its_warm_up() -> None:
    ours = InverseSqrt(warmup=8)
    assert [ours.factor(i, TOTAL) for i in range(8, TOTAL)] == pytest.approx(theirs("inverse_sqrt", 8)[8:], abs=1e-6)

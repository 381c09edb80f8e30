"""Where t is drawn."""

from __future__ import annotations

import pytest
import torch

from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.diffusion.timesteps.logit_normal import LogitNormal
from lorasmith.diffusion.timesteps.stratified import Stratified
from lorasmith.diffusion.timesteps.uniform import Uniform

SCHEDULE = NoiseSchedule.scaled_linear()


def draw(sampler: TimestepSampler, batch: int, steps: int) -> torch.Tensor:
    """(steps, batch)"""
    return torch.stack([sampler(StepRng(5, step, list(range(batch))), SCHEDULE) for step in range(steps)])


def gaps(t: torch.Tensor) -> float:
    """The largest distance of an empirical distribution of t from the uniform one (Kolmogorov, Smirnov)."""
    u = (t.flatten().double().sort().values + 0.5) / 1000
    return float((u - (torch.arange(len(u)) + 0.5) / len(u)).abs().max())


@pytest.mark.parametrize("sampler", [Uniform, Stratified, LogitNormal])
def test_bounds_hold_and_are_reached(sampler: type[Uniform] | type[Stratified] | type[LogitNormal]) -> None:
    t = draw(sampler(min=100, max=110), 8, 100)
    assert sorted(set(t.flatten().tolist())) == list(range(100, 110))


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be below max"):
        validate(Stratified, {"kind": "stratified", "min": 500, "max": 500})


def test_uniform_is_uniform() -> None:
    assert gaps(draw(Uniform(), 4, 1000)) < 0.03


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_stratified_is_even_over_the_run(batch: int) -> None:
    even, plain = (gaps(draw(kind(), batch, 240 // batch)) for kind in (Stratified, Uniform))
    assert even < 0.03
    assert even < plain / 2


def test_stratified_is_even_in_each_batch() -> None:
    for row in draw(Stratified(), 8, 50).sort(1).values:
        assert int(row.diff().max()) < 320
        assert int(row.diff().min()) > 40


def test_stratified_starts_by_the_seed() -> None:
    first, second = (Stratified()(StepRng(seed, 0, [0, 1]), SCHEDULE) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_logit_normal_gathers_where_it_is_told() -> None:
    for mean in (-1.0, 0.0, 1.5):
        t = draw(LogitNormal(mean=mean, std=0.5), 8, 200).float()
        assert abs(float(t.median()) / 1000 - float(torch.tensor(mean).sigmoid())) < 0.02

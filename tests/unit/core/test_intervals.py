"""Intervals of means."""

from __future__ import annotations

import math
import random

import pytest

from lorasmith.core.intervals import bootstrap_interval, student_interval, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (4, 2.1318), (9, 1.8331), (30, 1.6973)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom, 0.95) == pytest.approx(quantile, abs=2e-3)


def test_an_interval_of_few_numbers_holds_the_mean_as_often_as_it_says() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(1000):
        interval = student_interval([draw.gauss(3, 2) for _ in range(4)])
        hits += interval.low <= 3 <= interval.high
    assert 870 <= hits <= 930


def test_one_number_says_nothing_about_its_error() -> None:
    interval = student_interval([2.0])
    assert (interval.mean, interval.low, interval.high) == (2.0, -math.inf, math.inf)


def test_a_bootstrap_of_one_number_has_no_ends() -> None:
    interval = bootstrap_interval([[0.3, math.nan], [math.nan]])
    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == (0.3, -math.inf, math.inf)
    gap = bootstrap_interval([[0.5], [0.7]], less=[[0.2]])
    assert gap is not None
    assert gap.mean == pytest.approx(0.4)
    assert not gap.has_ends
    assert f"{interval:.3f}" == "0.300 (one value)"
    assert interval.to_html() == "0.300<br><small>one value</small>"


def test_more_seeds_of_the_same_prompts_are_not_more_evidence() -> None:
    few = bootstrap_interval([[0.1] * 2, [0.5] * 2, [0.9] * 2])
    many = bootstrap_interval([[0.1] * 50, [0.5] * 50, [0.9] * 50])
    assert few is not None
    assert many is not None
    assert few.mean == many.mean == pytest.approx(0.5)
    assert many.high - many.low == pytest.approx(few.high - few.low, abs=0.1)


def test_the_bootstrap_has_the_spread_of_the_mean() -> None:
    draw = random.Random(2)
    table = [[draw.gauss(0, 1)] for _ in range(100)]
    interval = bootstrap_interval(table)
    assert interval is not None
    # 1.645 standard errors to either side
    assert interval.high - interval.low == pytest.approx(2 * 1.645 / 10, rel=0.25)


def test_a_constant_has_an_interval_without_width_and_nan_is_left_out() -> None:
    interval = bootstrap_interval([[0.0, math.nan], [0.0], [math.nan]])
    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert bootstrap_interval([[math.nan], []]) is None

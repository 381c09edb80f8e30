"""Intervals of means: how far a mean of few numbers can be off. Plain Python, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.9
"""Share of intervals that contain the true mean: one end is passed in 5 % of the cases."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with the interval in which the true one probably is."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self:.4f}"

    def __format__(self, spec: str) -> str:
        """`f"{interval:.2f}"`: each of its numbers with this format."""
        spec = spec or ".4f"
        if not self.has_ends:
            return f"{self.mean:{spec}} (one value)"
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def to_html(self) -> str:
        """The mean, with its interval in small print below it, for a cell of a table."""
        ends = f"{self.low:.3f} to {self.high:.3f}" if self.has_ends else "one value"
        return f"{self.mean:.3f}<br><small>{ends}</small>"

    @property
    def has_ends(self) -> bool:
        """Whether there is an interval: a single value says nothing about its own error."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def student_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of independent numbers with Student's interval, which is honest for few numbers as well. A single number has
    an interval without ends."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = student_quantile(len(values) - 1, (1 + confidence) / 2) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def student_quantile(freedom: int, probability: float) -> float:
    """The quantile of Student's t distribution.

    Exact for 1 and 2 degrees of freedom; above, the expansion at the normal quantile (Abramowitz and Stegun, 26.7.5),
    whose error is below 0.002 between 0.05 and 0.95.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        centred = 2 * probability - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def bootstrap_interval(
    table: Sequence[Sequence[float]], confidence: float = CONFIDENCE, less: Sequence[Sequence[float]] = ()
) -> Interval | None:
    """Mean of a table with rows of prompts and columns of seeds, and its bootstrap interval.

    Prompts are drawn with replacement, and within each drawn prompt its seeds: numbers of one prompt are alike, so that
    more seeds of few prompts must not look like more evidence. Rows may differ in length; NaN is left out. `less`: a
    second, independent table, whose mean is subtracted. None if a table has no number. A single number has an interval
    without ends.
    """
    rows, others = known_rows(table), known_rows(less)
    if not rows or (less and not others):
        return None
    mean = mean_of_rows(rows) - (mean_of_rows(others) if others else 0.0)
    if any(sum(map(len, numbers)) == 1 for numbers in (rows, others)):
        return Interval(mean, -math.inf, math.inf)

    # the same draws each time, so that a table is the same when it is computed again
    random = Random(0)
    means: list[float] = []
    for _ in range(RESAMPLES):
        drawn = resampled_mean(rows, random)
        means.append(drawn - resampled_mean(others, random) if others else drawn)
    means.sort()
    tail = (1 - confidence) / 2
    low = means[math.floor(tail * (RESAMPLES - 1))]
    high = means[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return Interval(mean, low, high)


def known_rows(table: Sequence[Sequence[float]]) -> list[list[float]]:
    """The rows without NaN, and without rows that are then empty."""
    rows = [[value for value in row if not math.isnan(value)] for row in table]
    return [row for row in rows if row]


def mean_of_rows(rows: Sequence[Sequence[float]]) -> float:
    """The mean of the means of the rows."""
    return fmean([fmean(row) for row in rows])


def resampled_mean(rows: Sequence[Sequence[float]], random: Random) -> float:
    """The mean of rows that are drawn with replacement, and of values that are drawn so within each."""
    drawn = random.choices(rows, k=len(rows))
    return mean_of_rows([random.choices(row, k=len(row)) for row in drawn])

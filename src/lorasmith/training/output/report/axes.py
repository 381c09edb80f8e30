"""Geometry of line charts: the range of an axis, its ticks, and which points of a curve are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorasmith.training.output.report.record import Point

MOST_POINTS = 500
OUTLIERS = 0.01
"""Share of the points of a `raw` curve that the y axis may leave out, at either end."""


@dataclass(frozen=True)
class Line:
    """One curve. `style`: `raw` (thin and pale), `main`, `second`, `third` or `base` (dashed)."""

    name: str
    points: Sequence[Point]
    style: str = "main"


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with the values of its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def position(self, value: float) -> float:
        """Where a value is on the axis: 0 at `low`, 1 at `high`, clamped."""
        share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))


def x_axis(lines: Sequence[Line]) -> Axis:
    """From the first to the last step. It does not end on ticks, since it shows the length of the run."""
    steps = [step for line in lines for step, _ in line.points] or [0.0, 1.0]
    low, high = min(steps), max(steps)
    if high <= low:
        low, high = low - 1, high + 1
    # steps are whole numbers
    tick_distance = max(1.0, round_tick_distance(high - low, 6))
    ticks = multiples(low, high, tick_distance)
    return Axis(low, high, tuple(tick for tick in ticks if tick >= 0))


def y_axis(lines: Sequence[Line], from_zero: bool = False) -> Axis:
    """Room for all points except the outliers of `raw` curves. Both ends are on ticks."""
    # the loss of a single step can be far off; curves of means are shown whole
    values: list[float] = []
    raw: list[float] = []
    for line in lines:
        target = raw if line.style == "raw" else values
        target.extend(value for _, value in line.points)
    raw.sort()
    first = round(len(raw) * OUTLIERS)
    last = round(len(raw) * (1 - OUTLIERS))
    values += raw[first : max(1, last)]
    values = values or [0.0, 1.0]

    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    # a constant curve is drawn in the middle
    if high <= low:
        padding = abs(high) * 0.1 or 1.0
        low, high = low - padding, high + padding

    # 1e-9 keeps an end that is on a tick from being moved by a rounding error
    tick_distance = round_tick_distance(high - low, 5)
    low = math.floor(low / tick_distance + 1e-9) * tick_distance
    high = math.ceil(high / tick_distance - 1e-9) * tick_distance
    return Axis(low, high, tuple(multiples(low, high, tick_distance)))


def round_tick_distance(span: float, ticks: int) -> float:
    """1, 2 or 5 times a power of ten, such that about `ticks` ticks fit into `span`."""
    exact = span / ticks
    power = 10.0 ** math.floor(math.log10(exact))
    candidates = [factor * power for factor in (1, 2, 5, 10)]
    # 0.999: without it, a rounding error could lead to the next larger candidate
    return next(distance for distance in candidates if distance >= exact * 0.999)


def multiples(low: float, high: float, distance: float) -> list[float]:
    """The multiples of `distance` in [low, high]."""
    first = math.ceil(low / distance - 1e-6)
    last = math.floor(high / distance + 1e-6)
    return [i * distance for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A short number: `0.12`, `1e-04`, `12,000`."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.4g}"


def thin_out(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points. The lowest and the highest point of each stretch stay, so that spikes are drawn."""
    if len(points) <= most:
        return list(points)
    # each stretch gives up to two points
    size = math.ceil(len(points) / (most / 2))
    extremes: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        lowest = min(stretch, key=lambda point: point[1])
        highest = max(stretch, key=lambda point: point[1])
        extremes += sorted({lowest, highest})
    # the curve must not lose its ends
    first, last = points[0], points[-1]
    between = [point for point in extremes if point not in (first, last)]
    return [first, *between, last]

"""Charts in numbers: which range an axis shows, where its ticks stand, which points are enough to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorasmith.training.output.report.record import Point

MOST_POINTS = 500


@dataclass(frozen=True)
class Line:
    """One curve. `style`: `raw` (thin and pale), `main`, `second`, `third` or `base` (dashed)."""

    name: str
    points: Sequence[Point]
    style: str = "main"


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with its tick values."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`; clamped."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def x_axis(lines: Sequence[Line]) -> Axis:
    """From the first to the last step, not widened: a run has its length."""
    values = [x for line in lines for x, _ in line.points] or [0.0, 1.0]
    low, high = min(values), max(values)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    step = max(1.0, nice_step(high - low, 6))
    return Axis(low, high, tuple(t for t in multiples(low, high, step) if t >= 0))


def y_axis(lines: Sequence[Line], from_zero: bool = False) -> Axis:
    """Room for all but the wildest points of `raw` lines, ends on ticks."""
    calm = [y for line in lines if line.style != "raw" for _, y in line.points]
    raw = sorted(y for line in lines if line.style == "raw" for _, y in line.points)
    values = calm + raw[round(len(raw) * 0.01) : max(1, round(len(raw) * 0.99))]
    values = values or [0.0, 1.0]
    low, high = (min(0.0, *values) if from_zero else min(values)), max(values)
    if high <= low:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = nice_step(high - low, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(low, high, tuple(multiples(low, high, step)))


def nice_step(span: float, ticks: int) -> float:
    """1, 2 or 5 times a power of ten, so that `span` has about `ticks` of them."""
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def multiples(low: float, high: float, step: float) -> list[float]:
    """Multiples of `step` in [low, high]."""
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)]


def label(value: float) -> str:
    """A short number: `0.12`, `1e-04`, `12,000`."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.4g}"


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points that keep the lowest and highest of each stretch, so that spikes stay visible."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most / 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return [points[0], *(p for p in kept if p not in (points[0], points[-1])), points[-1]]

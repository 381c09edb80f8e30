"""Charts as inline SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from lorasmith.training.output.report.axes import Axis, Line, label, thinned, x_axis, y_axis

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 40


def chart(title: str, lines: Sequence[Line], note: str = "", from_zero: bool = False) -> str:
    """A figure with title, legend and axes, or an empty string if there is nothing to draw."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    x, y = x_axis(lines), y_axis(lines, from_zero)
    drawn = "".join(_curve(line, x, y) for line in lines)
    legend = "".join(f'<span class="key {line.style}">{escape(line.name)}</span>' for line in lines)
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    span = f"{x.low:.10g} {x.high:.10g} {LEFT} {WIDTH - RIGHT} {WIDTH}"
    return (
        f'<figure class="chart" data-lines="{escape(_values(lines), quote=True)}" data-x="{span}">'
        f'<figcaption><b>{escape(title)}</b><span class="legend">{legend}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f'{_grid(x, y)}{drawn}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
        f'<div class="readout"></div>{said}</figure>'
    )


def _across(x: Axis, value: float) -> float:
    return LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)


def _down(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)


def _curve(line: Line, x: Axis, y: Axis) -> str:
    places = [(_across(x, a), _down(y, b)) for a, b in thinned(line.points)]
    if len(places) == 1:
        return f'<circle class="{line.style}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4"/>'
    dots = "".join(f'<circle class="{line.style}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    few = len(places) <= 30 and line.style not in ("raw", "base")
    return f'<polyline class="{line.style}" points="{path}"/>{dots if few else ""}'


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for tick in y.ticks:
        at = _down(y, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{label(tick)}</text>')
    for tick in x.ticks:
        at = _across(x, tick)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{label(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">step</text>')
    return "".join(parts)


def _values(lines: Sequence[Line]) -> str:
    """The points for the cursor's read-out, with five digits."""
    return json.dumps([[line.name, [[a, float(f"{b:.5g}")] for a, b in thinned(line.points)]] for line in lines])

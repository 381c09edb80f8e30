"""Line charts as inline SVG. Colours come from the style sheet of the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from lorasmith.training.output.report.axes import Axis, Line, thin_out, tick_label, x_axis, y_axis

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 40
"""Margins around the curves."""
MOST_DOTS = 30
"""Curves of at most so many points have a dot at each point."""


def chart(title: str, lines: Sequence[Line], note: str = "", from_zero: bool = False) -> str:
    """A figure with title, legend and axes; an empty string if no line has points."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    x = x_axis(lines)
    y = y_axis(lines, from_zero)
    legend = "".join(f'<span class="key {line.style}">{escape(line.name)}</span>' for line in lines)
    curves = "".join(_curve(line, x, y) for line in lines)
    cursor = f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    note_html = f'<p class="note">{escape(note)}</p>' if note else ""

    # the script of the page shows the values at the mouse position from these attributes
    values = escape(_values(lines), quote=True)
    x_range = f"{x.low:.10g} {x.high:.10g} {LEFT} {WIDTH - RIGHT} {WIDTH}"
    return (
        f'<figure class="chart" data-lines="{values}" data-x="{x_range}">'
        f'<figcaption><b>{escape(title)}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{_grid_lines(x, y)}{curves}{cursor}</svg>"
        f'<div class="readout"></div>{note_html}</figure>'
    )


def _x_pixel(x: Axis, value: float) -> float:
    return LEFT + x.position(value) * (WIDTH - LEFT - RIGHT)


def _y_pixel(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.position(value) * (HEIGHT - TOP - BOTTOM)


def _curve(line: Line, x: Axis, y: Axis) -> str:
    points = thin_out(line.points)
    pixels = [(_x_pixel(x, step), _y_pixel(y, value)) for step, value in points]
    # a line through one point would be invisible
    if len(pixels) == 1:
        return _dot(line, *pixels[0], radius=4)
    coordinates = " ".join(f"{px:.1f},{py:.1f}" for px, py in pixels)
    curve = f'<polyline class="{line.style}" points="{coordinates}"/>'
    if len(pixels) <= MOST_DOTS and line.style not in ("raw", "base"):
        curve += "".join(_dot(line, px, py, radius=3) for px, py in pixels)
    return curve


def _dot(line: Line, px: float, py: float, radius: int) -> str:
    return f'<circle class="{line.style}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'


def _grid_lines(x: Axis, y: Axis) -> str:
    """Horizontal lines at the ticks of the y axis, and the labels of both axes."""
    elements = []
    for tick in y.ticks:
        py = _y_pixel(y, tick)
        elements.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        elements.append(f'<text x="{LEFT - 8}" y="{py + 5:.1f}" text-anchor="end">{tick_label(tick)}</text>')
    for tick in x.ticks:
        px = _x_pixel(x, tick)
        elements.append(f'<text x="{px:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{tick_label(tick)}</text>')
    elements.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">step</text>')
    return "".join(elements)


def _values(lines: Sequence[Line]) -> str:
    """The drawn points of each line as JSON, with five digits."""
    rounded = []
    for line in lines:
        points = [[step, float(f"{value:.5g}")] for step, value in thin_out(line.points)]
        rounded.append([line.name, points])
    return json.dumps(rounded)

"""The rows of the trainings as tables of Markdown, with Student's 90 % intervals over trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, variance
from typing import Any

from lorasmith.core.intervals import CONFIDENCE, student_interval, student_quantile

Row = dict[str, Any]
NUMBERS = ("likeness", "others", "drift_features", "drift_pixels", "copying")
SHARES = ("likeness", "others")
"""Numbers that are shares of pictures, shown in percent."""
TITLES = "garp | others | drift, features | drift, pixels | copying"


def mean_of(row: Row, number: str) -> float:
    """A number of one training: the mean over its pictures."""
    return fmean(row[number]) if row.get(number) else math.nan


def of_setting(rows: Sequence[Row], peer: str, setting: str) -> list[Row]:
    """The trainings of a program with a setting that did not fail."""
    return [row for row in rows if row["peer"] == peer and row["setting"] == setting and "error" not in row]


def chosen(row: Row) -> str:
    """The setting of a training, with what was searched."""
    return row["setting"] if not row["lr"] else f"{row['setting']}: lr {row['lr']:g}, rank {row['rank']}"


def means_table(rows: Sequence[Row]) -> str:
    """Mean and interval over trainings of each program with its default and its best settings."""
    lines = [f"| program | setting | trainings | {TITLES} |", "|---|---|---|---|---|---|---|---|"]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        for setting in ("base", "default", "best"):
            own = of_setting(rows, peer, setting)
            if own:
                lines.append(_line(peer, own, lambda number, own=own: _mean(own, number)))
    return "\n".join(lines)


def search_table(rows: Sequence[Row]) -> str:
    """Each training of the search."""
    lines = [f"| program | setting | trainings | {TITLES} |", "|---|---|---|---|---|---|---|---|"]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        for row in sorted(of_setting(rows, peer, "trial"), key=lambda row: (row["lr"], row["rank"])):
            lines.append(_line(peer, [row], lambda number, row=row: _mean([row], number)))
    return "\n".join(lines)


def differences_table(rows: Sequence[Row], to: str) -> str:
    """What each program at its best has more than the program `to` at its best."""
    lines = [f"| program | setting | trainings | {TITLES} |", "|---|---|---|---|---|---|---|---|"]
    other = of_setting(rows, to, "best")
    for peer in dict.fromkeys(row["peer"] for row in rows):
        own = of_setting(rows, peer, "best")
        if peer != to and len(own) > 1 and len(other) > 1:
            lines.append(_line(peer, own, lambda number, own=own: _difference(own, other, number)))
    return "\n".join(lines)


def _line(peer: str, own: Sequence[Row], cell: Callable[[str], str]) -> str:
    return f"| {peer} | {chosen(own[0])} | {len(own)} | {' | '.join(map(cell, NUMBERS))} |"


def _mean(rows: Sequence[Row], number: str) -> str:
    values = [value for row in rows if not math.isnan(value := mean_of(row, number))]
    if not values:
        return "-"
    interval = student_interval(values)
    return _shown(interval.mean, interval.high - interval.mean, number)


def _difference(own: Sequence[Row], other: Sequence[Row], number: str) -> str:
    """The difference of two means, with Student's interval for two samples of equal variance."""
    a, b = [mean_of(row, number) for row in own], [mean_of(row, number) for row in other]
    freedom = len(a) + len(b) - 2
    pooled = ((len(a) - 1) * variance(a) + (len(b) - 1) * variance(b)) / freedom
    half = student_quantile(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(pooled * (1 / len(a) + 1 / len(b)))
    difference = fmean(a) - fmean(b)
    noise = " (noise)" if abs(difference) <= half else ""
    return ("+" if difference >= 0 else "") + _shown(difference, half, number) + noise


def _shown(mean: float, half: float, number: str) -> str:
    scale, digits = (100, 0) if number in SHARES else (1, 3)
    spread = "" if math.isinf(half) else f" ± {scale * half:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"

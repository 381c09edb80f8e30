"""The results of `tools.tiny_base.methods` as Markdown: means, and paired differences with their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from lorasmith.core.intervals import Interval, student_interval
from tools.tiny_base.method_list import METHODS

Row = dict[str, Any]
MEASURES = ("likeness", "found", "others", "drift")
"""Numbers of a row, which are printed in per cent."""


def rows_by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method, in the order of the list."""
    return {name: found for name in METHODS if (found := [row for row in rows if row["method"] == name])}


def difference(rows: Sequence[Row], reference: Sequence[Row], value: Callable[[Row], float | None]) -> Interval | None:
    """The mean of the differences of runs with the same concept and seed, with its 90 % interval; None without any."""
    known = {(row["concept"], row["seed"]): row for row in reference}
    differences: list[float] = []
    for row in rows:
        other = known.get((row["concept"], row["seed"]))
        pair = (value(row), None if other is None else value(other))
        if pair[0] is not None and pair[1] is not None:
            differences.append(pair[0] - pair[1])
    return student_interval(differences) if differences else None


def as_text(interval: Interval | None, digits: int = 1) -> str:
    """`+2.3 ± 1.0`; with `noise` where the interval contains 0."""
    if interval is None:
        return ""
    if not math.isfinite(interval.high):
        return f"{interval.mean:+.{digits}f} (one run)"
    half = (interval.high - interval.low) / 2
    text = f"{interval.mean:+.{digits}f} ± {half:.{digits}f}"
    return f"{text} (noise)" if interval.low <= 0 <= interval.high else text


def last_loss(row: Row) -> float | None:
    """1000 times the loss on held-out pictures at the end."""
    losses = row["held_out"]
    return 1000 * losses[max(losses, key=int)] if losses else None


def steps_to(row: Row, loss: float) -> float | None:
    """The steps after which the loss on held-out pictures is at most `loss`, interpolated; None if it never is."""
    points = sorted((int(step), value) for step, value in row["held_out"].items())
    for (step, value), (next_step, next_value) in itertools.pairwise(points):
        if next_value <= loss:
            share = (value - loss) / (value - next_value) if value > loss else 0.0
            return step + share * (next_step - step)
    return None


def print_tables(rows: Sequence[Row]) -> None:
    """Print the comparison, and the steps to the held-out loss of the default."""
    methods = rows_by_method(rows)
    columns = ["method", "runs", *MEASURES, *(f"Δ {key}" for key in MEASURES), "Δ held-out loss x 1000"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for name, found in methods.items():
        reference = methods.get(METHODS[name].against, [])
        cells = [name, str(len(found))]
        cells += [f"{100 * fmean(row[key] for row in found):.1f}" for key in MEASURES]
        if name == METHODS[name].against:
            cells += [""] * (len(MEASURES) + 1)
        else:
            for key in MEASURES:
                cells.append(as_text(difference(found, reference, lambda row, k=key: 100 * row[k])))
            cells.append(as_text(difference(found, reference, last_loss)))
        print("| " + " | ".join(cells) + " |")
    print_steps(methods)


def print_steps(methods: dict[str, list[Row]]) -> None:
    """Steps until the held-out loss that the default has after three quarters of its steps."""
    goals = {}
    for row in methods.get("default", []):
        if "150" in row["held_out"]:
            goals[row["concept"], row["seed"]] = row["held_out"]["150"]
    print("\n| method | runs that reach it | steps, of the default's 150 |")
    print("|---|---|---|")
    for name, found in methods.items():
        compared = [row for row in found if (row["concept"], row["seed"]) in goals]
        steps = [steps_to(row, goals[row["concept"], row["seed"]]) for row in compared]
        reached = [step for step in steps if step is not None]
        if len(reached) > 1:
            interval = student_interval(reached)
            half = (interval.high - interval.low) / 2
            print(f"| {name} | {len(reached)} of {len(compared)} | {interval.mean:.0f} ± {half:.0f} |")
        elif compared:
            print(f"| {name} | {len(reached)} of {len(compared)} | |")

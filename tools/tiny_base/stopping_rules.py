"""What criteria do with the runs of `tools.tiny_base.stopping`: the step that each ends with, and what it costs.

A criterion sees what a run sees: held-out losses, the loss of DVAR's fixed batch, or the four numbers. The quality of
its weights is that of the judged file at this step, or of the next one. `scores` chooses by one half of the pictures;
the quality of all criteria is that of the other half, so that choosing by pictures cannot win by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lorasmith.core.intervals import student_interval
from lorasmith.training.hooks.stop_dvar import variance_ratio
from lorasmith.training.hooks.stop_patience import worse_than_best
from lorasmith.training.output.best import HeldOutLoss, choose

Row = Mapping[str, Any]
"""A run: `judged` (by step), `held_out` (losses by step and image), `fixed_loss` ([step, loss])."""
END = "fixed length"
DVAR_WINDOW = 20
THRESHOLD = 0.15
PATIENCE = 5
QUALITY = ("found", "likeness", "others", "drift")


def judged_steps(row: Row) -> list[int]:
    """The steps whose files the judge saw."""
    return sorted(map(int, row["judged"]))


def losses_of(row: Row) -> list[HeldOutLoss]:
    """The held-out losses after the start."""
    losses = {int(step): tuple(values) for step, values in row["held_out"].items()}
    return [HeldOutLoss(step, losses[step]) for step in sorted(losses) if step > 0]


def last_step(row: Row) -> int:
    """The fixed length."""
    return judged_steps(row)[-1]


def dvar_stop(row: Row) -> int:
    """The step with which DVAR ends a run: the one after that in which it says so."""
    measured = row["fixed_loss"]
    for count in range(1, len(measured) + 1):
        ratio = variance_ratio([loss for _, loss in measured[:count]], DVAR_WINDOW)
        if ratio is not None and ratio < THRESHOLD:
            return int(measured[count - 1][0]) + 1
    return last_step(row)


def patience_stop(row: Row) -> int:
    """The step with which patience ends a run: the one after that in which it says so."""
    losses = losses_of(row)
    for count in range(1, len(losses) + 1):
        if worse_than_best(losses[:count])[0] >= PATIENCE:
            return losses[count - 1].step + 1
    return last_step(row)


def best_by_loss(row: Row) -> int:
    """The latest judged weights whose held-out loss is not worse than the lowest one."""
    steps = judged_steps(row)
    return choose([loss for loss in losses_of(row) if loss.step in steps]).best.step


def best_by_likeness(row: Row) -> int:
    """The latest judged weights whose likeness, in one half of the pictures, is not worse than the highest one."""
    # as losses, since the rule is the same
    likeness = {
        step: tuple(-value for value in half(row["judged"][str(step)]["likeness"], 0)) for step in judged_steps(row)
    }
    return choose([HeldOutLoss(step, values) for step, values in likeness.items()]).best.step


CRITERIA: dict[str, Callable[[Row], int]] = {
    END: last_step,
    "DVAR, window 20": dvar_stop,
    "patience": patience_stop,
    "best by held-out loss": best_by_loss,
    "best by likeness": best_by_likeness,
}


def half(values: Sequence[float], which: int) -> list[float]:
    """Every other picture: 0, those that `scores` chooses by; 1, those that quality is measured on."""
    return list(values[which::2])


def quality_at(row: Row, step: int, number: str) -> float:
    """A mean over pictures of the judged file of this step, or of the next one that was judged."""
    written = next((judged for judged in judged_steps(row) if judged >= step), last_step(row))
    values = row["judged"][str(written)][number]
    return fmean(half(values, 1) if number in ("found", "likeness") else values)


def table_of(rows: Sequence[Row]) -> str:
    """A line for each case and criterion: views saved, and the quality beside that of the fixed length, seed by seed
    with Student's 90 % interval, in percent."""
    lines = [
        "| case | ended by | step | views saved | found | likeness | others | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        for name, stop in CRITERIA.items():
            steps = [min(stop(row), last_step(row)) for row in own]
            saved = fmean(100 * (1 - step / last_step(row)) for row, step in zip(own, steps, strict=True))
            where = f"{fmean(steps):.0f} ({min(steps)} - {max(steps)})"
            cells = [quality_cell(own, steps, number, name != END) for number in QUALITY]
            lines.append(f"| {case}, {len(own)} seeds | {name} | {where} | {saved:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def quality_cell(rows: Sequence[Row], steps: Sequence[int], number: str, compare: bool) -> str:
    """The mean of a number and, with `compare`, its difference from that of the fixed length."""
    values = [100 * quality_at(row, step, number) for row, step in zip(rows, steps, strict=True)]
    mean = f"{fmean(values):.1f}"
    if not compare:
        return mean
    ends = [100 * quality_at(row, last_step(row), number) for row in rows]
    differences = [value - end for value, end in zip(values, ends, strict=True)]
    interval = student_interval(differences)
    if len(rows) < 2 or not any(differences):
        return f"{mean}; {interval.mean:+.1f}"
    return f"{mean}; {interval.mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"

"""The events of a run, read as they are written.

The steps are kept as columns of numbers: a run has up to millions of them, and there are many runs.
"""

from __future__ import annotations

import math
import os
import threading
from array import array
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lorasmith.training.output.report.axes import thin_out
from lorasmith.training.output.report.record import Event, Point, parse_event, smooth

MOST_EVENTS = 5000
"""Events other than steps that are kept of each kind; of more, the oldest are left out."""
MOST_POINTS = 1200
"""Points of a curve that are sent to the page."""
RATE_STEPS = 50
"""Steps over which the speed is measured."""
BLOCK = 8 << 20
"""Bytes that are read at a time."""
NOT_VALUES = ("event", "step", "epoch", "samples")
"""Fields of a step that are not columns."""


class RunLog:
    """`events.jsonl` of one run. `refresh` reads what has been added."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.lock = threading.RLock()
        self.generation = 0
        """Grows with every change."""
        self._clear()

    def _clear(self) -> None:
        self.steps = array("q")
        self.columns: dict[str, array[float]] = {}
        """A value for each step; NaN where it has none."""
        self.events: list[Event] = []
        self._counts: dict[str, int] = {}
        self._offset = 0
        self._inode = 0

    def refresh(self) -> bool:
        """Read what was added since the last time; returns whether anything was."""
        with self.lock:
            try:
                with self.path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    # a run that is resumed from an earlier step writes the file anew
                    if status.st_ino != self._inode or status.st_size < self._offset:
                        self._clear()
                        self._inode = status.st_ino
                    if status.st_size == self._offset:
                        return False
                    file.seek(self._offset)
                    while block := file.read(BLOCK):
                        # a line that is being written is read the next time
                        end = block.rfind(b"\n") + 1
                        if end == 0:
                            break
                        for line in block[:end].splitlines():
                            self._add(line)
                        self._offset += end
                        file.seek(self._offset)
            except OSError:
                return False
            self.generation += 1
            return True

    def _add(self, line: bytes) -> None:
        event = parse_event(line)
        if event is None:
            return
        kind = event["event"]
        if kind == "step":
            self._add_step(event["step"], event)
            return
        self.events.append(event)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] > MOST_EVENTS:
            self.events.remove(next(other for other in self.events if other.get("event") == kind))
            self._counts[kind] -= 1

    def _add_step(self, step: int, event: Event) -> None:
        values: dict[str, float] = {}
        for name, value in event.items():
            if name in NOT_VALUES:
                continue
            # the learning rates are a table with a value for each parameter group
            table = (
                {f"{name}/{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
            )
            values |= {key: float(n) for key, n in table.items() if isinstance(n, int | float)}
        count = len(self.steps)
        self.steps.append(step)
        for name in values.keys() - self.columns.keys():
            self.columns[name] = array("d", [float("nan")]) * count
        for name, column in self.columns.items():
            column.append(values.get(name, float("nan")))

    def of(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    def points(self, name: str) -> list[Point]:
        """(step, value) of a column, where it has a value."""
        column = self.columns.get(name, array("d"))
        return [(step, value) for step, value in zip(self.steps, column, strict=False) if math.isfinite(value)]

    @property
    def last_step(self) -> int:
        """The number of the last step made."""
        numbers = [int(event.get("step") or 0) for event in self.events[-8:]]
        return max([*numbers, *self.steps[-1:]], default=0)

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of a step, over the last ones; None if there are too few."""
        seconds = self.points("seconds")[-RATE_STEPS:]
        if len(seconds) < 2 or seconds[-1][0] <= seconds[0][0]:
            return None
        return max(0.0, seconds[-1][1] - seconds[0][1]) / (seconds[-1][0] - seconds[0][0])

    def curves(self) -> dict[str, Any]:
        """The charts of a run: for each its title and its lines, whose points are thinned out for the page."""
        with self.lock:
            loss = self.points("loss")
            validation = self.of("validation")
            charts = [
                chart(
                    "Loss",
                    line("each step", loss, "raw"),
                    line("mean", smooth(loss), "main"),
                    line("validation", event_points(validation, "loss"), "second"),
                    line("validation, base model", event_points(validation, "base_loss"), "base"),
                ),
                chart("Terms of the loss", *(line(n, smooth(self.points(n))) for n in self._terms())),
                chart("Learning rate", *(line(n[3:], self.points(n)) for n in self.columns if n.startswith("lr/"))),
                chart(
                    "Gradient norm, before clipping",
                    line("each step", self.points("grad_norm"), "raw"),
                    line("mean", smooth(self.points("grad_norm")), "main"),
                ),
                chart("Validation loss by timestep", *by_timestep(validation)),
            ]
            return {"generation": self.generation, "charts": [c for c in charts if c["lines"]]}

    def _terms(self) -> list[str]:
        """The columns of the terms of the loss."""
        known = ("loss", "grad_norm", "seconds")
        return [name for name in self.columns if name not in known and "/" not in name]


def chart(title: str, *lines: dict[str, Any]) -> dict[str, Any]:
    """A chart of the lines that have points."""
    return {"title": title, "lines": [line for line in lines if line["points"]]}


def line(name: str, points: list[Point], style: str = "") -> dict[str, Any]:
    """A line of a chart. `style`: main, raw, second, base; the page chooses if it is empty."""
    thin = [[step, float(f"{value:.6g}")] for step, value in thin_out(points, MOST_POINTS)]
    return {"name": name, "points": thin, "style": style}


def event_points(events: list[Event], key: str) -> list[Point]:
    """(step, value) of a number in events."""
    return [(e["step"], e[key]) for e in events if isinstance(e.get(key), int | float)]


def by_timestep(events: list[Event]) -> list[dict[str, Any]]:
    """A line for each timestep of the validation."""
    timesteps: dict[str, list[Point]] = {}
    for event in events:
        table = event.get("by_t")
        for t, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, int | float):
                timesteps.setdefault(t, []).append((event["step"], value))
    if len(timesteps) < 2:
        return []
    return [line(f"t = {t}", points) for t, points in timesteps.items()]


class RunLogs:
    """The logs of the runs that were looked at last."""

    MOST = 6

    def __init__(self) -> None:
        self._logs: OrderedDict[Path, RunLog] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: Path) -> RunLog:
        """The log of a run, up to date."""
        with self._lock:
            log = self._logs.pop(folder, None) or RunLog(folder)
            self._logs[folder] = log
            while len(self._logs) > self.MOST:
                self._logs.popitem(last=False)
        log.refresh()
        return log

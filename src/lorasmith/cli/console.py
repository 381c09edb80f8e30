"""What commands print: progress and messages to stderr, answers for machines to stdout.

rich is imported where something is drawn, so that `--help` stays fast.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.launch import find_launch
from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

PLAIN_WIDTH = 160
"""Columns of tables where there is no terminal to ask."""


def make_streams_safe() -> None:
    """Never fail on a character that the terminal's encoding lacks; show it escaped instead."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def terminal(stream: TextIO | None = None) -> Console:
    """A rich console on stderr (or `stream`): colours on a terminal only."""
    from rich.console import Console

    target = stream or sys.stderr
    return Console(file=target, highlight=False, width=None if target.isatty() else PLAIN_WIDTH)


def say(text: str) -> None:
    """One message to stderr, never wrapped or coloured, so that paths in it can be copied."""
    print(text, file=sys.stderr, flush=True)


def answer(value: dict[str, Any]) -> None:
    """One JSON object to stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str), flush=True)


def fail(error: LorasmithError, as_json: bool) -> None:
    """Tell the user's mistake: its text to stderr, and with `--json` as an object to stdout too."""
    if as_json:
        problems = [vars(p) for p in error.problems] if isinstance(error, ConfigError) else []
        answer({"error": str(error), "problems": problems})
    terminal().print("error:", style="bold red", end=" ")
    say(f"{rank_name()}{error}")


def rank_name() -> str:
    """`rank 1 of 2: ` in a process that is one of several."""
    try:
        place = find_launch()
    except LorasmithError:
        return ""
    return f"rank {place.index} of {place.count}: " if place.count > 1 else ""


def progress_for(stream: TextIO | None = None) -> Progress:
    """Bars on a terminal, a line now and then elsewhere."""
    target = stream or sys.stderr
    return RichProgress(terminal(target)) if target.isatty() else LineProgress(target)


class RichProgress(Progress):
    """Draws a bar for each task: done, per second, note, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar under those that are open already."""
        bars, outermost = self._bars or _bars(self._console), self._bars is None
        self._bars = bars
        if outermost:
            bars.start()
        task = bars.add_task(description, total=total, note="")
        rate = Rate()

        def advance(units: int, note: str) -> None:
            bars.update(task, advance=units, note=f"{rate.add(units)}{', ' if note else ''}{note}")

        try:
            yield advance
        finally:
            bars.update(task, visible=outermost)
            if outermost:
                bars.stop()
                self._bars = None

    def say(self, text: str) -> None:
        """Above the bars, as plain text."""
        self._console.print(text, markup=False, soft_wrap=True)


def _bars(console: Console) -> Bars:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class LineProgress(Progress):
    """Prints a line at the start, at most one every `every` seconds, and one at the end."""

    def __init__(self, stream: TextIO, every: float = 10.0) -> None:
        self._stream, self._every = stream, every

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
        rate, started = Rate(), time.monotonic()
        done, told, last = 0, started, ""

        def line() -> None:
            spent = time.monotonic() - started
            left = f", {clock((total - done) * spent / rate.count)} left" if rate.count > 0 and done < total else ""
            self.say(f"{description} {done}/{total}{last}, {clock(spent)}{left}")

        def advance(units: int, note: str) -> None:
            nonlocal done, told, last
            done += units
            last = "".join(f", {part}" for part in (rate.add(units), note) if part)
            if time.monotonic() - told >= self._every:
                told = time.monotonic()
                line()

        try:
            yield advance
        finally:
            if total:
                line()

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Rate:
    """Units per second since the first; a jump at the start (a resumed run) is no work done."""

    def __init__(self) -> None:
        self._started: float | None = None
        self.count = 0

    def add(self, units: int) -> str:
        """`3.2/s`, or `2.1 s each` when slow; empty until something can be said."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
            return ""
        self.count += units
        spent = now - self._started
        if spent <= 0 or not self.count:
            return ""
        rate = self.count / spent
        return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Output of the commands: progress and messages on stderr, results on stdout.

Everything that a file or a caption may have a part in goes through here, where control characters are written out.

rich is imported inside functions, so that `--help` stays fast.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.launch import find_launch
from lorasmith.core.progress import Progress
from lorasmith.core.text_files import CONTROL, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

Advance = Callable[[int, float | None, str], None]
"""Takes the units done since the last call, the seconds that they took (None: all since the last call), and a note."""
PLAIN_WIDTH = 160
"""Columns of tables where the output is not a terminal."""
SECONDS_BETWEEN_LINES = 10.0
"""How often progress is printed where the output is not a terminal."""
_json_stream: ContextVar[TextIO | None] = ContextVar("json_stream", default=None)
"""The stdout of the process, while it is for JSON alone."""


def make_streams_safe() -> None:
    """Print characters that the encoding of the terminal lacks as escapes, in place of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def rich_console(stream: TextIO | None = None) -> Console:
    """A rich console on stderr (or `stream`), with colours only on a terminal."""
    from lorasmith.cli.safe_console import SafeConsole

    target = stream or sys.stderr
    return SafeConsole(file=target, highlight=False, width=None if target.isatty() else PLAIN_WIDTH)


def say(text: str) -> None:
    """Print a message on stderr; it is not wrapped or coloured, so that paths in it can be copied."""
    print(printable(text), file=sys.stderr, flush=True)


def show(text: str, end: str = "\n") -> None:
    """Print a result on stdout, as `say` does on stderr."""
    print(printable(text), end=end, flush=True)


@contextmanager
def json_alone() -> Iterator[None]:
    """Inside the block stdout gets what `print_json` prints, and nothing else: libraries that print there (the
    optimizers of prodigyopt and dadaptation) print on stderr."""
    token = _json_stream.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _json_stream.reset(token)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    # JSON escapes most control characters itself, but not those above ASCII
    text = CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    print(text, file=_json_stream.get() or sys.stdout, flush=True)


def print_error(error: LorasmithError, as_json: bool) -> None:
    """Print a mistake of the user on stderr, and with `as_json` as a JSON object on stdout too."""
    if as_json:
        problems = [vars(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
        print_json({"error": str(error), "problems": problems})
    rich_console().print("error:", style="bold red", end=" ")
    say(f"{rank_prefix()}{error}")


def rank_prefix() -> str:
    """`rank 1 of 2: ` in a distributed run, else empty."""
    try:
        launch = find_launch()
    except LorasmithError:
        return ""
    return f"rank {launch.index} of {launch.count}: " if launch.count > 1 else ""


def make_progress(stream: TextIO | None = None) -> Progress:
    """Progress bars if the output is a terminal, else lines at intervals."""
    target = stream or sys.stderr
    return RichProgress(rich_console(target)) if target.isatty() else LineProgress(target)


class RatedProgress(Progress):
    """Progress with the rate of each task, from all the time of the task or from that of its units alone."""

    def _track(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Show a task of `total` units."""
        raise NotImplementedError

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
        with self._track(description, total) as advance:
            yield lambda units, note: advance(units, None, note)

    @contextmanager
    def track_timed(self, description: str, total: int) -> Iterator[Callable[[int, float, str], None]]:
        """The same, with the rate of the seconds that are given; the remaining time includes the time between."""
        with self._track(description, total) as advance:
            yield advance


class RichProgress(RatedProgress):
    """A bar for each task with the units done, the rate, a note and the remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None

    @contextmanager
    def _track(self, description: str, total: int) -> Iterator[Advance]:
        """A bar below those of tasks that are still open."""
        is_outermost = self._bars is None
        if self._bars is None:
            # The outermost task owns the display; nested tasks add bars to it.
            self._bars = _make_bars(self._console)
            self._bars.start()
        bars = self._bars
        task = bars.add_task(description, total=total, note="")
        rate = Rate()

        def advance(units: int, seconds: float | None, note: str) -> None:
            text = rate.add(units, seconds)
            bars.update(task, advance=units, note=f"{text}, {note}" if note else text)

        try:
            yield advance
        finally:
            # inner bars vanish when they are done, so that they do not pile up during a run
            bars.update(task, visible=is_outermost)
            if is_outermost:
                bars.stop()
                self._bars = None

    def say(self, text: str) -> None:
        """Print a message above the bars, as plain text."""
        self._console.print(text, markup=False, soft_wrap=True)


def _make_bars(console: Console) -> Bars:
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


class LineProgress(RatedProgress):
    """A line for each task at most every `every` seconds, and one at its end."""

    def __init__(self, stream: TextIO, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._every = every

    @contextmanager
    def _track(self, description: str, total: int) -> Iterator[Advance]:
        rate = Rate()
        started = last_printed = time.monotonic()
        done = 0
        details: list[str] = []

        def print_line() -> None:
            elapsed = time.monotonic() - started
            parts = [f"{description} {done}/{total}", *details, format_duration(elapsed)]
            if rate.count > 0 and done < total:
                # from the units of this process: a resumed run begins with units that are done already
                remaining = (total - done) * elapsed / rate.count
                parts.append(f"{format_duration(remaining)} left")
            self.say(", ".join(parts))

        def advance(units: int, seconds: float | None, note: str) -> None:
            nonlocal done, last_printed, details
            done += units
            details = [text for text in (rate.add(units, seconds), note) if text]
            if time.monotonic() - last_printed >= self._every:
                last_printed = time.monotonic()
                print_line()

        try:
            yield advance
        finally:
            if total:
                print_line()

    def say(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


class Rate:
    """Units per second. The first call of `add` starts the clock and does not count: the first units of a resumed run
    are those that were done before."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds = 0.0
        self.count = 0

    def add(self, units: int, seconds: float | None = None) -> str:
        """Count units and return the rate: `3.2/s`, or `2.1 s each` if it is below 1; empty while it is not known.

        `seconds`: the time that these units took; None: all time since the last call.
        """
        last, now = self._last, time.monotonic()
        self._last = now
        if last is None:
            return ""
        self.count += units
        self._seconds += now - last if seconds is None else seconds
        if self._seconds <= 0 or not self.count:
            return ""
        rate = self.count / self._seconds
        return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def format_duration(total_seconds: float) -> str:
    """A duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, seconds = divmod(round(total_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

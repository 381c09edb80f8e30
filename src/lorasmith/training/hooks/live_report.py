"""Keeps report.html up to date while a run is under way."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from lorasmith.core.errors import LorasmithError
from lorasmith.training.hooks.base import Hook
from lorasmith.training.output.report.record import PictureCache

if TYPE_CHECKING:
    from lorasmith.training.run import Run

LARGEST_SHARE = 0.02
"""The largest share of the time that writing reports may take. A report of a long run takes seconds."""


class LiveReport(Hook):
    """Writes report.html every minute, after each preview, and when the run is stopped. Part of every run, not a kind
    that a config can name.

    It is written in a thread, so that steps do not wait for it. A report that cannot be written is left out: the run
    itself reports what is wrong with its folder.
    """

    every_minutes: float | None = 1.0
    _thread: threading.Thread | None = PrivateAttr(None)
    _preview_is_new: bool = PrivateAttr(False)
    _pause: float = PrivateAttr(0.0)
    """Seconds from the start of one report to that of the next at least."""
    _pictures: PictureCache = PrivateAttr(default_factory=dict)
    """Pictures that are in the report already, since encoding them takes longest."""

    def open(self, run: Run) -> None:
        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            self._preview_is_new |= event == "preview"

        run.events.listen(on_event)

    def due(self, run: Run) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return False
        now = time.monotonic()
        since_last = now - run.hook_state.get(self._clock_key, now)
        return since_last >= self._pause and (self._preview_is_new or super().due(run))

    def act(self, run: Run) -> None:
        self._preview_is_new = False
        self._thread = threading.Thread(target=self._write, args=(run,), daemon=True, name="report")
        self._thread.start()

    def finish(self, run: Run) -> None:
        """Wait for the report under way, so that it does not meet the one that the session writes."""
        self._join()

    def close(self, run: Run) -> None:
        """Write what has happened since the last report. The report of a finished run is written by the session."""
        self._join()
        if run.state.step < run.length.steps and run.folder.is_dir():
            self._write(run, stopped=True)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _write(self, run: Run, stopped: bool = False) -> None:
        # the page draws with PIL only; imported here, since a run begins without it
        from lorasmith.training.output.report import write_report

        started = time.monotonic()
        with suppress(LorasmithError, OSError):
            write_report(run.folder, self._pictures, stopped=stopped)
        self._pause = (time.monotonic() - started) / LARGEST_SHARE

"""The extension point of hooks: when, and what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import Field

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Hook(Component, root="hook"):
    """Called at the start, after each optimizer step and at the end. `act` is the work; the cadence says when.

    Hooks read the run and write files; they cannot move training, since all its draws are made by position.
    """

    every_steps: int | None = Field(default=None, ge=1)
    every_epochs: int | None = Field(default=None, ge=1)
    every_minutes: float | None = Field(default=None, gt=0)
    at_start: bool = False
    at_end: bool = True

    def ready(self) -> None:
        """Before anything is loaded: raises LorasmithError if something that the hook needs is missing."""

    def open(self, run: Run) -> None:
        """Before any hook starts: the time to ask for being told of events (`run.events.listen`)."""

    def start(self, run: Run) -> None:
        """Before the first step of this process."""
        run.marks[self._mark] = time.monotonic()
        if self.at_start and not run.resumed:
            self.act(run)

    def after_step(self, run: Run) -> None:
        """After each optimizer step."""
        if self.due(run):
            self.act(run)
            run.marks[self._mark] = time.monotonic()

    def finish(self, run: Run) -> None:
        """After the last step, unless the last step already was the hook's turn."""
        if self.at_end and not self.due(run):
            self.act(run)

    def close(self, run: Run) -> None:
        """When the session ends, however it ends."""

    def due(self, run: Run) -> bool:
        """Whether the step just made is this hook's turn."""
        if self.due_by_step(run) or self.due_by_epoch(run):
            return True
        waited = time.monotonic() - run.marks.get(self._mark, time.monotonic())
        return bool(self.every_minutes) and waited >= 60 * (self.every_minutes or 0)

    def due_by_step(self, run: Run) -> bool:
        """Whether `every_steps` makes it the hook's turn."""
        return bool(self.every_steps) and run.state.step % (self.every_steps or 1) == 0

    def due_by_epoch(self, run: Run) -> bool:
        """Whether `every_epochs` makes it the hook's turn: an epoch has just ended."""
        return bool(self.every_epochs) and run.state.step % ((self.every_epochs or 1) * run.length.steps_per_epoch) == 0

    def act(self, run: Run) -> None:
        """The hook's work."""
        raise NotImplementedError

    @property
    def _mark(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"

"""The extension point of hooks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lorasmith.core.errors import WriteError
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Hook(Component, root="hook"):
    """Work that a run does beside its steps, such as logging, previews and exports.

    A hook is called before the first step, after each optimizer step and at the end. `act` does the work; the settings
    below say when. Hooks read the run and write files. They cannot influence training, because every random draw of
    training is seeded by its position in the run.
    """

    needs_held_out: ClassVar[bool] = False
    """Whether it does nothing without images that are held out."""

    every_steps: int | None = Field(default=None, ge=1)
    """Interval in optimizer steps at which the hook acts."""
    every_epochs: int | None = Field(default=None, ge=1)
    """Interval in epochs at which the hook acts."""
    every_minutes: float | None = Field(default=None, gt=0)
    """Interval in minutes, from when the hook last acted."""
    at_start: bool = False
    """Also act before the first step of a new run."""
    at_end: bool = True
    """Also act after the last step."""

    def ready(self) -> None:
        """Called before anything is loaded. Raises LorasmithError if something that the hook needs is missing."""

    def open(self, run: Run) -> None:
        """Called before any hook starts. Hooks register for events here (`run.events.listen`)."""

    def start(self, run: Run) -> None:
        """Called before the first step of this process."""
        # intervals in minutes begin with the training, not with the loading of the model
        run.hook_state[self._clock_key] = time.monotonic()
        # a resumed run has its pictures and files of the start already
        if self.at_start and not run.resumed:
            try:
                self.act(run)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._report_failure(run, error)

    def after_step(self, run: Run) -> None:
        """Called after each optimizer step."""
        if self.due(run):
            self.act_while_training(run)

    def act_while_training(self, run: Run) -> None:
        """Act after the step just made. A file that cannot be written, or work for which memory does not suffice, is
        reported, and the run goes on."""
        try:
            self.act(run)
            run.hook_state[self._step_key] = run.state.step
        except Exception as error:
            if not (isinstance(error, WriteError | OSError) or is_out_of_memory(error)):
                raise
            self._report_failure(run, error)
        # set after the work, so that slow work cannot be due again at once
        run.hook_state[self._clock_key] = time.monotonic()

    def _report_failure(self, run: Run, error: Exception) -> None:
        """Say that the hook could not do its work, and why."""
        name = self.model_dump().get("kind", type(self).__name__)
        reason = str(error).splitlines()[0] if is_out_of_memory(error) and str(error) else str(error)
        run.progress.say(f"step {run.state.step}: {name} failed, the run goes on: {reason or type(error).__name__}")

    def finish(self, run: Run) -> None:
        """Called after the last step. Acts unless the hook has acted after that step already.

        Raises WriteError if a file cannot be written.
        """
        # the clock cannot tell: a hook may have become due by the minutes that the hooks before it took
        if self.at_end and not self.has_acted(run):
            self.act(run)

    def close(self, run: Run) -> None:
        """Called when the session ends, also when it ends with an error."""

    def due(self, run: Run) -> bool:
        """Whether the hook acts after the step just made."""
        if self.due_by_step(run) or self.due_by_epoch(run):
            return True
        if self.every_minutes is None:
            return False
        now = time.monotonic()
        last_acted = run.hook_state.get(self._clock_key, now)
        return now - last_acted >= 60 * self.every_minutes

    def has_acted(self, run: Run) -> bool:
        """Whether the hook has acted with success after the step just made."""
        return run.hook_state.get(self._step_key) == run.state.step

    def due_by_step(self, run: Run) -> bool:
        """Whether the hook acts after the step just made because of `every_steps`."""
        return self.every_steps is not None and run.state.step % self.every_steps == 0

    def due_by_epoch(self, run: Run) -> bool:
        """Whether the hook acts after the step just made because of `every_epochs`: an epoch has just ended."""
        if self.every_epochs is None:
            return False
        interval = self.every_epochs * run.length.steps_per_epoch
        return run.state.step % interval == 0

    def act(self, run: Run) -> None:
        """Do the hook's work."""
        raise NotImplementedError

    @property
    def _state_key(self) -> str:
        """The key of this hook in `run.hook_state`. A run may have several hooks of one class."""
        return f"{type(self).__module__}.{type(self).__qualname__}.{id(self)}"

    @property
    def _clock_key(self) -> str:
        """The key of the time at which the hook last acted."""
        return f"{self._state_key}.clock"

    @property
    def _step_key(self) -> str:
        """The key of the step after which the hook last acted with success."""
        return f"{self._state_key}.step"

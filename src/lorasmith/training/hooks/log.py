"""Losses, gradient norms and learning rates to events.jsonl, TensorBoard and the progress line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run

STEPS_BETWEEN_READS_ON_GPU = 10


class Log(Hook):
    """Reads the values that the steps collected on the device and writes them to the log. Reading makes the CPU wait
    for the GPU, so on a GPU it does not happen after every step."""

    kind: Literal["log"] = "log"
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between two reads. Default: 1 on a CPU, 10 on a GPU."""
    tensorboard: bool = True
    """Also write TensorBoard's files, into `tensorboard/`."""

    def due(self, run: Run) -> bool:
        default = 1 if run.device.type == "cpu" else STEPS_BETWEEN_READS_ON_GPU
        return run.state.step % (self.every_steps or default) == 0

    def after_step(self, run: Run) -> None:
        # What was read after an earlier step is written now, while the GPU computes the step just launched.
        run.events.write_held()
        if not self.due(run):
            return
        if run.device.type == "cpu" or run.state.step >= run.length.steps:
            self.act_while_training(run)
        else:
            self.read(run)

    def act(self, run: Run) -> None:
        self.read(run)
        run.events.write_held()

    def read(self, run: Run) -> None:
        """Read the steps whose numbers have not been read, and hold their events.

        Raises LorasmithError if the run has diverged; the events are written before it ends, so the log shows the
        steps that led to the error.
        """
        # A GPU computes steps after they were launched. Reading their numbers waits for them, which is time in steps.
        started = time.monotonic()
        entries = run.metrics.drain()
        run.state.seconds += time.monotonic() - started
        for entry in entries:
            run.events.hold(entry.event, **entry.fields)
        run.metrics.raise_if_diverged()

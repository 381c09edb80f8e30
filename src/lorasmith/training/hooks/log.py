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

    def act(self, run: Run) -> None:
        # A GPU computes steps after they were launched. Reading their numbers waits for them, which is time in steps.
        started = time.monotonic()
        entries = run.metrics.drain()
        run.state.seconds += time.monotonic() - started
        for entry in entries:
            run.events.write(entry.event, **entry.fields)
        # after the events are written, so that the log shows the steps that led to the error
        run.metrics.raise_if_diverged()

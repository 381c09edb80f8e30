"""Losses, norms and learning rates to events.jsonl, TensorBoard and the progress line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Log(Hook):
    """Reads back what the steps collected on the device; on a GPU not every step, since reading waits for it."""

    kind: Literal["log"] = "log"
    every_steps: int | None = Field(default=None, ge=1)
    """Default: each step on a CPU, each tenth on a GPU."""
    tensorboard: bool = True

    def due(self, run: Run) -> bool:
        every = self.every_steps or (1 if run.device.type == "cpu" else 10)
        return run.state.step % every == 0

    def act(self, run: Run) -> None:
        for record in run.losses.drain():
            run.events.write(record.event, **record.fields)
        run.losses.stop_if_lost()

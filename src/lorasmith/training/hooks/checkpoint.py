"""Checkpoints while training, to resume from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.log import Log

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Checkpoints(Hook):
    """Writes checkpoints and deletes all but the newest few."""

    kind: Literal["checkpoint"] = "checkpoint"
    every_minutes: float | None = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)
    """Number of checkpoints that are not deleted."""

    def act(self, run: Run) -> None:
        from lorasmith.training.output import checkpoint

        # losses that are still on the device may say that the run has diverged
        for hook in run.hooks:
            if isinstance(hook, Log):
                hook.act(run)
        if run.metrics.last_step_was_bad and run.state.step < run.length.steps:
            run.progress.say(f"step {run.state.step}: no checkpoint, since the loss is not a finite number")
            return
        path = checkpoint.save(run)
        # old checkpoints go only when the new one is complete
        checkpoint.prune(run.folder, self.keep)
        run.events.write("checkpoint", run.state.step, folder=run.relative_path(path))

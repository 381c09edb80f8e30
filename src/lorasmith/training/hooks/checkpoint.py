"""Checkpoints while training, to resume from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.training.hooks.base import Hook
from lorasmith.training.output import checkpoint

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Checkpoints(Hook):
    """Writes checkpoints and deletes all but the newest few."""

    kind: Literal["checkpoint"] = "checkpoint"
    every_minutes: float | None = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)
    """Number of checkpoints that are not deleted."""

    def act(self, run: Run) -> None:
        path = checkpoint.save(run)
        # old checkpoints go only when the new one is complete
        checkpoint.prune(run.folder, self.keep)
        run.events.write("checkpoint", run.state.step, folder=run.relative_path(path))

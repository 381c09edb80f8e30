"""States: whole checkpoints under names of their own, which stay, to go on from any of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from lorasmith.training.hooks.numbered_files import NumberedFiles
from lorasmith.training.output import checkpoint

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class States(NumberedFiles):
    """Writes the folder `name-000100-state` at step 100, and `name-state` at the end. `lorasmith train --resume FOLDER`
    goes on from it, also when the run has gone further since."""

    kind: Literal["state"] = "state"
    step_name: str = "{name}-{step:06d}-state"

    def act(self, run: Run) -> None:
        for name, row in self.names(run).items():
            self._write(run, name, row)
        if self.at_end and run.state.step >= run.length.steps:
            self._write(run, f"{run.config.file_name}-state")

    def _write(self, run: Run, name: str, row: str = "") -> None:
        step, per_epoch = run.state.step, run.length.steps_per_epoch
        place = {"current_epoch": -(-step // per_epoch), "current_step": step}
        path = checkpoint.save(run, self.place(run) / name, {"train_state.json": json.dumps(place)})
        more = {"row": row} if row else {}
        run.events.write("state", step, file=run.shown(path), **more)
        if row:
            self.prune(run, "state", row)

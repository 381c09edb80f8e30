"""States: complete checkpoints under names of their own, which are kept so that a run can go on from any of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from lorasmith.training.hooks.numbered_files import NumberedFiles, epochs_begun

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class States(NumberedFiles):
    """Writes the folder `name-000100-state` after step 100, and `name-state` at the end. `lorasmith train --resume
    FOLDER` continues from such a folder, also if the run has made further steps since."""

    kind: Literal["state"] = "state"
    step_name: str = "{name}-{step:06d}-state"

    def act(self, run: Run) -> None:
        for name, series in self.file_names(run).items():
            self._write(run, name, series)
        # the state of the end has no number and is never deleted
        if self.at_end and run.state.step >= run.length.steps:
            self._write(run, f"{run.name}-state")

    def _write(self, run: Run, name: str, series: str = "") -> None:
        from lorasmith.training.output.checkpoint import save

        # kohya's scripts read the position from this file
        position = {"current_epoch": epochs_begun(run), "current_step": run.state.step}
        extra_files = {"train_state.json": json.dumps(position)}
        path = save(run, self.output_folder(run) / name, extra_files)
        self.write_event(run, "state", path, series)

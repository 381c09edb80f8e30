"""The folder of a run: how a new run claims it, and how it is found again to resume the run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import NAME as LOCK
from lorasmith.core.store import write_text
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.output.events import Events

CONFIG = "config.toml"
STATE = "state.json"


def claim(folder: Path, overwrite: bool) -> str:
    """Make sure that a new run may use `folder`. With `overwrite`, an older run in it is moved aside.

    Returns a message for the user, or an empty string. Raises LorasmithError if the path is a file, or if the folder
    holds a run and `overwrite` is false.
    """
    if folder.is_file():
        raise LorasmithError(f"output: {folder} is a file; it must be a folder, or a path that does not exist yet")
    if not (folder / CONFIG).is_file():
        return ""
    if not overwrite:
        raise LorasmithError(
            f"output: {folder} already holds a run. Continue it with: lorasmith train --resume {folder}; or choose "
            "another output; or give --overwrite, which moves the old run aside."
        )
    # the old run is moved, never deleted: it may be hours of work. The folder itself stays, since it is locked.
    candidates = (folder.with_name(f"{folder.name}.old-{i}") for i in count(1))
    aside = next(path for path in candidates if not path.exists())
    aside.mkdir()
    for path in list(folder.iterdir()):
        if path.name != LOCK:
            path.rename(aside / path.name)
    return f"the run that was in {folder} is now in {aside}"


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write the complete config into the run folder. Training with it repeats the run."""
    write_text(folder / CONFIG, "# Everything that this run used, defaults included.\n" + config.to_toml())


@dataclass(frozen=True)
class ResumePoint:
    """What `--resume` names."""

    run: Path
    """The folder of the run to continue."""
    checkpoint: Path | None = None
    """The checkpoint to continue from; None: the newest."""
    id: str = ""
    """The id of the run that made the checkpoint. Another run may be in its folder by now."""

    @property
    def config(self) -> Path:
        """The config file of the run. If a checkpoint is named whose run was moved, deleted or replaced, this is the
        config file in the checkpoint."""
        in_run = self.run / CONFIG
        if self.checkpoint is None or (in_run.is_file() and self.belongs_to(self.run)):
            return in_run
        return self.checkpoint / CONFIG

    def belongs_to(self, folder: Path) -> bool:
        """Whether the run in `folder` is the run to continue."""
        if self.run.resolve() != folder.resolve():
            return False
        return not self.id or Events(folder, tensorboard=False).id == self.id


def find_resume_point(path: Path) -> ResumePoint:
    """The run that is continued, from the path of its folder or of a checkpoint's folder. Raises LorasmithError if it
    is neither."""
    state_file = path / STATE
    if state_file.is_file():
        try:
            state = json.loads(state_file.read_text(encoding="utf-8"))
            # checkpoints of older versions do not name their run, but are always in its folder
            run = state.get("run", "../..")
            run_id = state.get("id", "")
        except (ValueError, AttributeError):
            raise LorasmithError(f"--resume: {state_file} cannot be read; name another checkpoint") from None
        point = ResumePoint(Path(os.path.normpath(path / run)), path, run_id)
    else:
        point = ResumePoint(path)

    if not point.config.is_file():
        raise LorasmithError(
            f"--resume: {path} holds no run (no {CONFIG} in it). Name the output folder of the run to continue, or one "
            "of its checkpoints."
        )
    return point


def reopen(folder: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a run to continue, changed by `key=value` overrides. `folder`: the run's or a checkpoint's."""
    point = find_resume_point(folder)
    return load_config(point.config, list(overrides)).model_copy(update={"output": point.run})

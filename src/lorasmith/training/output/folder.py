"""The folder of a run: never overwritten, found again to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.output.events import Events

CONFIG = "config.toml"
STATE = "state.json"


def claim(folder: Path, overwrite: bool) -> str:
    """Make sure that a new run may use `folder`; with `overwrite`, an older run there is moved aside.

    Returns a sentence for the user, or an empty string. Raises LorasmithError if a run or a file is in the way.
    """
    if folder.is_file():
        raise LorasmithError(f"output: {folder} is a file; name a folder for the run")
    if not (folder / CONFIG).is_file():
        return ""
    if not overwrite:
        raise LorasmithError(
            f"output: {folder} already holds a run. Continue it with: lorasmith train --resume {folder}; or choose "
            "another output; or give --overwrite, which moves the old run aside."
        )
    aside = next(p for i in count(1) if not (p := folder.with_name(f"{folder.name}.old-{i}")).exists())
    folder.rename(aside)
    return f"the run that was in {folder} is now {aside}"


def write_config(folder: Path, config: TrainConfig) -> None:
    """The resolved config, which runs the same again."""
    write_text(folder / CONFIG, "# Everything that this run used, defaults included.\n" + config.to_toml())


@dataclass(frozen=True)
class Found:
    """What `--resume` names: a run, and the checkpoint to go on from if it is not to be the newest."""

    run: Path
    checkpoint: Path | None = None
    id: str = ""
    """Of the run that made the checkpoint; another one may be in its folder by now."""

    @property
    def config(self) -> Path:
        """The settings of the run; a checkpoint that left its run, or whose run is gone, has them with it."""
        there = self.run / CONFIG
        if self.checkpoint is None or (there.is_file() and self.belongs_to(self.run)):
            return there
        return self.checkpoint / CONFIG

    def belongs_to(self, folder: Path) -> bool:
        """Whether the run in `folder` is the one that is continued."""
        same = self.run.resolve() == folder.resolve()
        return same and (not self.id or Events(folder, tensorboard=False).id == self.id)


def find(path: Path) -> Found:
    """The run in a folder, or the run of a checkpoint's folder. Raises LorasmithError if it is neither."""
    if (path / STATE).is_file():
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            run, own = state.get("run", "../.."), state.get("id", "")
        except (ValueError, AttributeError):
            raise LorasmithError(f"--resume: {path / STATE} cannot be read; name another checkpoint") from None
        found = Found(Path(os.path.normpath(path / run)), path, own)
    else:
        found = Found(path)
    if not found.config.is_file():
        raise LorasmithError(
            f"--resume: {path} holds no run (no {CONFIG} in it). Name the output folder of the run to continue, or one "
            "of its checkpoints."
        )
    return found


def reopen(folder: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config, with `key=value` overrides, of a run that is continued. `folder`: its own, or a checkpoint's."""
    found = find(folder)
    return load_config(found.config, list(overrides)).model_copy(update={"output": found.run})

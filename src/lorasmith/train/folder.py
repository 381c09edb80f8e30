"""The folder of a run: never overwritten, found again to resume."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.train.config import TrainConfig, load_config

CONFIG = "config.toml"


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


def reopen(folder: Path) -> TrainConfig:
    """The config of a run that is to be continued."""
    if not (folder / CONFIG).is_file():
        raise LorasmithError(
            f"--resume: {folder} holds no run (no {CONFIG} in it). Name the output folder of the run to continue."
        )
    return load_config(folder / CONFIG).model_copy(update={"output": folder})

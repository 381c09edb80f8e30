"""From the options of files and states to our `export` and the hook `state`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DTYPES = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
STEP_NAME = "{name}-step{step:08d}"
EPOCH_NAME = "{name}-{epoch:06d}"
"""The original's names of files of steps and of epochs."""


def output_name(values: Mapping[str, Any]) -> str:
    """The name of the LoRA's file without its suffix."""
    return values["output_name"] or "last"


def output_folder(values: Mapping[str, Any]) -> str:
    """The folder that the original writes to."""
    return str(Path(values["output_dir"] or "."))


def convert_export(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table `export`, except the place of the files."""
    epochs, steps = epochs_between_files(values), values["save_every_n_steps"]
    table: dict[str, Any] = {
        "every_epochs": epochs,
        "every_steps": steps,
        "number_last": True if steps else None,
        "dtype": DTYPES[values["save_precision"].lower()] if values["save_precision"] else None,
        # sd-scripts writes folder names and the tags of captions, which user interfaces list
        "metadata": "minimal" if values["no_metadata"] else "full",
    }

    # Names and numbers of kept files have a meaning only if there are files before the end.
    if epochs or steps:
        table["step_name"] = STEP_NAME
        table["epoch_name"] = EPOCH_NAME
        table["keep_epochs"] = values["save_last_n_epochs"] or None
        table["keep"] = kept_files(values["save_last_n_steps"], steps)
    return without_none(table)


def convert_states(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The hook `state`, if states are to be written."""
    if not values["save_state"] and not values["save_state_on_train_end"]:
        return []
    table: dict[str, Any] = {"kind": "state", "folder": output_folder(values)}
    epochs, steps = epochs_between_files(values), values["save_every_n_steps"]

    # save_state writes a state beside each file; without it, save_state_on_train_end writes one at the end. Numbers of
    # states that are not given are those of files.
    if values["save_state"] and (epochs or steps):
        last_epochs = values["save_last_n_epochs_state"] or values["save_last_n_epochs"]
        last_steps = values["save_last_n_steps_state"] or values["save_last_n_steps"]
        table["every_epochs"] = epochs
        table["every_steps"] = steps
        table["number_last"] = True if steps else None
        table["step_name"] = f"{STEP_NAME}-state"
        table["epoch_name"] = f"{EPOCH_NAME}-state"
        table["keep_epochs"] = last_epochs or None
        table["keep"] = kept_files(last_steps, steps)
    return [without_none(table)]


def epochs_between_files(values: Mapping[str, Any]) -> int | None:
    """save_n_epoch_ratio, a number of files of the whole run, counts before save_every_n_epochs."""
    ratio, epochs = values["save_n_epoch_ratio"], values["max_train_epochs"]
    if ratio and epochs:
        return max(1, epochs // ratio)
    return values["save_every_n_epochs"]


def kept_files(last_steps: int | None, steps: int | None) -> int | None:
    """How many files of steps are kept: all that are at most `last_steps` steps old. None: all files."""
    if not last_steps or not steps:
        return None
    return last_steps // steps + 1


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table without the keys that have no value."""
    return {key: value for key, value in table.items() if value is not None}

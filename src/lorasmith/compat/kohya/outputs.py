"""From the options of files, states and their places to our `export` and the hook `state`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

DTYPES = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
STEP, EPOCH = "{name}-step{step:08d}", "{name}-{epoch:06d}"
"""What the original calls files of steps and of epochs."""
THEIR_STATE = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl")


def convert_export(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table `export`, but for the files' place."""
    epochs, steps = every(values), values["save_every_n_steps"]
    table: dict[str, Any] = {"every_epochs": epochs, "every_steps": steps, "number_last": bool(steps) or None}
    table["dtype"] = DTYPES[values["save_precision"].lower()] if values["save_precision"] else None
    table["metadata"] = "minimal" if values["no_metadata"] else None
    if epochs or steps:
        table |= {"step_name": STEP, "epoch_name": EPOCH}
        table |= kept(values["save_last_n_epochs"], values["save_last_n_steps"], steps)
    return {"export": found} if (found := without_none(table)) else {}


def states(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The hook `state`, if states are asked for."""
    if not values["save_state"] and not values["save_state_on_train_end"]:
        return []
    table: dict[str, Any] = {"kind": "state", "folder": folder_of(values)}
    epochs, steps = every(values), values["save_every_n_steps"]
    if values["save_state"] and (epochs or steps):
        last_epochs = values["save_last_n_epochs_state"] or values["save_last_n_epochs"]
        last_steps = values["save_last_n_steps_state"] or values["save_last_n_steps"]
        table |= {"every_epochs": epochs, "every_steps": steps, "number_last": bool(steps) or None}
        table |= {"step_name": f"{STEP}-state", "epoch_name": f"{EPOCH}-state"}
        table |= kept(last_epochs, last_steps, steps)
    return [without_none(table)]


def folder_of(values: Mapping[str, Any]) -> str:
    """Where the original writes."""
    return str(Path(values["output_dir"] or "."))


def every(values: Mapping[str, Any]) -> int | None:
    """Epochs between files."""
    ratio, epochs = values["save_n_epoch_ratio"], values["max_train_epochs"]
    if ratio and epochs:
        return max(1, epochs // ratio)
    return values["save_every_n_epochs"]


def kept(last_epochs: int | None, last_steps: int | None, steps: int | None) -> dict[str, int | None]:
    """How many files stay: so many of epochs, and of steps those that are no more than so many steps old."""
    return {"keep_epochs": last_epochs or None, "keep": last_steps // steps + 1 if last_steps and steps else None}


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table without what is unset."""
    return {key: value for key, value in table.items() if value is not None}


def resumed(values: Mapping[str, Any]) -> Path:
    """The state, or the run of ours, that `resume` names. Raises LorasmithError if it is neither."""
    path = Path(values["resume"]).expanduser()
    if (path / "state.json").is_file():
        return path
    if any((path / name).is_file() for name in THEIR_STATE):
        raise LorasmithError(theirs(path))
    found = next(
        (p for p in (path, *path.parents) if (p / "config.toml").is_file() and (p / "events.jsonl").is_file()), None
    )
    if found is None:
        raise LorasmithError(
            f'resume: "{path}" is not a run of lorasmith. Name a state (output_dir/output_name-state) or a run '
            "(output_dir/output_name)"
        )
    return found


def theirs(path: Path) -> str:
    """What to do with a state that the original has written."""
    try:
        made = json.loads((path / "train_state.json").read_text(encoding="utf-8"))["current_step"]
    except (OSError, ValueError, KeyError, TypeError):
        made = "N"
    return (
        f'resume: "{path}" is a state that sd-scripts wrote. Its random state and optimizer mean nothing here, so it '
        "cannot be continued exactly; go on from its weights, with a fresh optimizer: leave resume out and set "
        f'network_weights = "{path / "model.safetensors"}", initial_step = {made}'
    )

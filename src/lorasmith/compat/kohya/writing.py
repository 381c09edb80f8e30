"""From the options of files and states to our `export` and `checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError, Problem

DTYPES = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
ALL = 100000
"""Checkpoints that are kept where the original keeps all."""


def convert_export(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The tables `export` and `checkpoint`."""
    kind = str(values["save_model_as"]).lower()
    if kind != "safetensors":
        remedy = "use safetensors: every program reads it, and it cannot carry code"
        problems.append(Problem("save_model_as", f'"{kind}" is not supported', "safetensors", remedy))
    if values["log_with"] and values["log_with"].lower() == "wandb":
        remedy = "use tensorboard; events.jsonl holds every number"
        problems.append(Problem("log_with", "wandb is not supported", "tensorboard", remedy))
    epochs, steps = every(values), values["save_every_n_steps"]
    export: dict[str, Any] = {"every_epochs": epochs, "every_steps": steps}
    export["metadata"] = "minimal" if values["no_metadata"] else None
    export["dtype"] = DTYPES[values["save_precision"].lower()] if values["save_precision"] else None
    export["keep"] = kept(values["save_last_n_epochs"], values["save_last_n_steps"], epochs, steps)
    if epochs or steps:
        notes.append("files of steps and epochs stand in the run's folder, named by the step: name-000100.safetensors")
    checkpoint: dict[str, Any] = {}
    if values["save_state"] and (epochs or steps):
        last = values["save_last_n_epochs_state"] or values["save_last_n_epochs"]
        last_steps = values["save_last_n_steps_state"] or values["save_last_n_steps"]
        keep = kept(last, last_steps, epochs, steps) or ALL
        checkpoint = {"every_epochs": epochs, "every_steps": steps, "keep": keep}
    tables = {"export": export, "checkpoint": checkpoint}
    found = {name: {k: v for k, v in table.items() if v is not None} for name, table in tables.items()}
    return {name: table for name, table in found.items() if table}


def every(values: Mapping[str, Any]) -> int | None:
    """Epochs between files."""
    ratio, epochs = values["save_n_epoch_ratio"], values["max_train_epochs"]
    if ratio and epochs:
        return max(1, epochs // ratio)
    return values["save_every_n_epochs"]


def kept(last_epochs: int | None, last_steps: int | None, epochs: int | None, steps: int | None) -> int | None:
    """How many files stay: those of the last so many epochs, or steps."""
    counts = []
    if epochs and last_epochs:
        counts.append(max(1, last_epochs // epochs))
    if steps and last_steps:
        counts.append(last_steps // steps + 1)
    return sum(counts) if counts else None


def resumed(values: Mapping[str, Any]) -> Path:
    """The run of ours that `resume` names. Raises LorasmithError if it is none."""
    path = Path(values["resume"]).expanduser()
    found = next(
        (p for p in (path, *path.parents) if (p / "config.toml").is_file() and (p / "events.jsonl").is_file()), None
    )
    if found is None:
        raise LorasmithError(
            f'resume: "{path}" is not a run of lorasmith. Name a run\'s folder (output_dir/output_name); '
            "states of other programs cannot be continued"
        )
    return found

"""From the options of previews and validation to our `preview` and `validation`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

VALIDATION_OPTIONS = ("validate_every_n_steps", "validate_every_n_epochs", "validation_seed")
"""Options that have an effect only if images are held out."""


def convert_preview(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The table `preview`; empty if no images are to be drawn."""
    prompts = values["sample_prompts"]
    epochs, steps = values["sample_every_n_epochs"], values["sample_every_n_steps"]

    # Interfaces may write 0 or -1 for "never".
    times: dict[str, Any] = {}
    if epochs and epochs > 0:
        times["every_epochs"] = epochs
        if steps:
            notes.append("sample_every_n_steps is ignored: sample_every_n_epochs counts before it, as in the original")
    elif steps and steps > 0:
        times["every_steps"] = steps
    if values["sample_at_first"]:
        times["at_start"] = True
    if not prompts:
        return {}
    if not times:
        notes.append("sample_prompts is ignored: set sample_every_n_epochs to say when images are drawn")
        return {}

    # The names that the original gives to images of steps and of epochs.
    prefix = "{name}_" if values["output_name"] else ""
    suffix = "_{index:02d}_{time}_{seed}"
    return {
        "prompts": prompts,
        **times,
        "at_end": False,
        "sampler": values["sample_sampler"],
        "steps": 30,
        "cfg": 7.5,
        "copies": str(Path(values["output_dir"] or ".") / "sample"),
        "copy_name": f"{prefix}{{step:06d}}{suffix}",
        "epoch_copy_name": f"{prefix}e{{epoch:06d}}{suffix}",
    }


def convert_validation(values: Mapping[str, Any], data: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The table `validation`: when the loss is measured. The images are selected by `data`, our table of that name."""
    # The split may come from the options or from the dataset config.
    if not data.get("validation"):
        for name in VALIDATION_OPTIONS:
            if values[name]:
                notes.append(f"{name} is ignored: no images are held out; set validation_split, for example to 0.1")
        return {}
    table: dict[str, Any] = {}
    if values["validate_every_n_steps"]:
        table["every_steps"] = values["validate_every_n_steps"]
    if values["validate_every_n_epochs"]:
        table["every_epochs"] = values["validate_every_n_epochs"]
    return table or {"every_epochs": 1}

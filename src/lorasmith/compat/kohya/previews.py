"""From the options of previews and validation to ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def convert_preview(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The table `preview`, if pictures are asked for at some time."""
    prompts = values["sample_prompts"]
    epochs, steps = values["sample_every_n_epochs"], values["sample_every_n_steps"]
    when: dict[str, Any] = {}
    if epochs and epochs > 0:
        when["every_epochs"] = epochs
        if steps:
            notes.append("sample_every_n_steps is left out: sample_every_n_epochs counts, as in the original")
    elif steps and steps > 0:
        when["every_steps"] = steps
    if values["sample_at_first"]:
        when["at_start"] = True
    if not prompts or not when:
        if prompts:
            notes.append("sample_prompts is left out: nothing says when, set sample_every_n_epochs")
        return {}
    drawing = {"sampler": values["sample_sampler"], "steps": 30, "cfg": 7.5}
    return {"preview": {"prompts": prompts, **when, "at_end": False, **drawing, **copies(values)}}


def copies(values: Mapping[str, Any]) -> dict[str, Any]:
    """Where the original has its pictures, and what it calls them."""
    name, rest = "{name}_" if values["output_name"] else "", "_{index:02d}_{time}_{seed}"
    names = {"copy_name": f"{name}{{step:06d}}{rest}", "epoch_copy_name": f"{name}e{{epoch:06d}}{rest}"}
    return {"copies": str(Path(values["output_dir"] or ".") / "sample"), **names}


def convert_validation(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table `validation`; the images are chosen in `data.validation`."""
    when = {"every_steps": values["validate_every_n_steps"], "every_epochs": values["validate_every_n_epochs"]}
    when = {key: value for key, value in when.items() if value}
    if not values["validation_split"] and not when:
        return {}
    return {"validation": when or {"every_epochs": 1}} if values["validation_split"] else {}

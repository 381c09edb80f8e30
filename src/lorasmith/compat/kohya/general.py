"""What the training scripts of sd-scripts have in common: base, length, precision, text encoder, hooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from lorasmith.compat.kohya.outputs import convert_states, output_folder, output_name
from lorasmith.compat.kohya.uploads import convert_tracking, convert_uploads
from lorasmith.compat.script import Parsed, Script
from lorasmith.core.errors import Problem
from lorasmith.training.config import SpecField

PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


def convert_general(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The top-level keys of our config."""
    base = values["pretrained_model_name_or_path"]
    if not base:
        remedy = "name a .safetensors file, a diffusers folder or a hub id"
        problems.append(Problem("pretrained_model_name_or_path", "missing", remedy=remedy))
    if values["seed"] is None:
        notes.append("seed: 0 is used, so that the run can be repeated; the original draws a random one")
    name = output_name(values)
    trigger = values["metadata_trigger_phrase"]
    table: dict[str, Any] = {
        "base": base,
        "vae": values["vae"],
        "output": str(Path(values["output_dir"] or ".") / name),
        "name": name,
        "trigger": [trigger] if trigger else None,
        "seed": values["seed"] or 0,
        "accumulation": values["gradient_accumulation_steps"],
        "precision": PRECISIONS[str(values["mixed_precision"]).lower()],
        "gradient_checkpointing": bool(values["gradient_checkpointing"]),
        "prediction": "v_prediction" if values["v_parameterization"] else None,
        "zero_terminal_snr": bool(values["zero_terminal_snr"]),
        "comment": values["training_comment"] or None,
        "metadata": convert_metadata(values),
    }

    # As in the original, epochs replace steps.
    if values["max_train_epochs"]:
        table["epochs"] = values["max_train_epochs"]
    else:
        table["steps"] = values["max_train_steps"]

    # The original refuses these combinations, too.
    for option, precision in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
        if values[option] and table["precision"] != precision:
            found = f"cannot be combined with mixed_precision = {values['mixed_precision']}"
            remedy = f"set mixed_precision = {precision}, or remove {option}"
            problems.append(Problem(option, found, remedy=remedy))
    return table


def convert_metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the model specification (modelspec) that are given."""
    metadata: dict[str, str] = {}
    for name in get_args(SpecField):
        value = values.get(f"metadata_{name}")
        if value:
            metadata[name] = str(value)
    return metadata


def convert_text(
    values: Mapping[str, Any], notes: list[str], problems: list[Problem], *, sdxl: bool = False
) -> dict[str, Any]:
    """The table `text`, with what differs from our defaults. For `sdxl` the original does not use clip_skip."""
    length, clip_skip = values["max_token_length"], values["clip_skip"]
    table: dict[str, Any] = {}
    if length and length not in (75, 150, 225):
        problems.append(Problem("max_token_length", f"found {length}", "75, 150, 225"))
    elif length and length != 75:
        table["max_tokens"] = length
    if clip_skip and sdxl:
        notes.append(
            "clip_skip is ignored for SDXL, as in the original; text.clip_skip of a lorasmith config has an effect"
        )
    elif clip_skip and clip_skip > 1:
        table["clip_skip"] = clip_skip
    if values["weighted_captions"]:
        table["weighted"] = True
    return table


def convert_hooks(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> list[dict[str, Any]]:
    """The hooks for states, uploads and Weights & Biases."""
    return [*convert_states(values), *convert_uploads(values, problems), *convert_tracking(values, notes)]


def first_batches_image(values: Mapping[str, Any]) -> Path | None:
    """The image of the first batches, if debug_dataset requests it instead of training."""
    if not values["debug_dataset"]:
        return None
    return Path(output_folder(values)) / f"{output_name(values)}-dataset.jpg"


def no_effect_notes(script: Script, parsed: Parsed) -> list[str]:
    """A note for each given option that has no effect here."""
    options = {option.name: option for option in script.options}
    notes: list[str] = []
    for name in sorted(parsed.given):
        option = options[name]
        # Interfaces write all options; those with their default need no note.
        if option.state == "no_effect" and not option.is_unset(parsed.values[name]):
            notes.append(f"{name} has no effect here: {option.note}")
    return notes


def without_empty(table: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that are None or empty."""
    return {key: value for key, value in table.items() if value not in (None, {}, [])}

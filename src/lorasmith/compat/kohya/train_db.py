"""`train_db`: DreamBooth (arXiv 2208.12242) by training the whole model, which is also what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.data import convert_data
from lorasmith.compat.kohya.general import (
    convert_general,
    convert_hooks,
    convert_text,
    first_batches_image,
    no_effect_notes,
    without_empty,
)
from lorasmith.compat.kohya.lr_schedules import convert_schedule
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer
from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options.dreambooth import OPTIONS
from lorasmith.compat.kohya.outputs import convert_export, output_name
from lorasmith.compat.kohya.previews import convert_preview
from lorasmith.compat.kohya.resume import find_resume_path
from lorasmith.compat.kohya.train_network import TrainNetwork
from lorasmith.compat.kohya.uploads import secret_variables
from lorasmith.compat.script import Conversion, Parsed
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.training.output.folder import find_resume_point

FOLDER_LAYOUTS = ("diffusers", "diffusers_safetensors")
"""Values of save_model_as that write a folder."""


class TrainDb(TrainNetwork):
    """All weights of SD 1.x or 2.x."""

    name = "train_db"
    options = OPTIONS

    def convert(self, parsed: Parsed) -> Conversion:
        # The shared converters read all options of train_network; those that this script lacks get their defaults.
        defaults = {option.name: option.default for option in NETWORK_OPTIONS}
        given = defaults | parsed.values
        # A full model has no LoRA container; its layout is converted below.
        values = given | {"save_model_as": "safetensors", "unet_lr": None}
        base = values["pretrained_model_name_or_path"]
        notes = no_effect_notes(self, parsed)
        problems: list[Problem] = []
        resume = find_resume_path(values)
        secrets = secret_variables(values)
        if resume and not base:
            # Without a base model, the run continues with the settings in its folder.
            copy_targets = model_copy_targets(given, find_resume_point(resume).run)
            return Conversion({}, notes, copy_targets, resume, product="model", secrets=secrets)

        table = convert_general(values, notes, problems)
        table["data"] = convert_data(replace(parsed, values=values), notes, problems)
        table["text"] = convert_text(values, notes, problems)
        table["adapter"] = {"kind": "full", "layers": "*", "bias": True, "norms": True}
        table["objective"] = convert_objective(values, table["data"].get("subsets", ()), problems)

        # Unlike train_network, this script has a single rate for the UNet, and can stop training the text encoder.
        text_rate = text_learning_rate(values)
        table["optimizer"] = convert_optimizer(values, notes, problems)
        table["optimizer"]["text_lr"] = text_rate
        stop = values["stop_text_encoder_training"]
        if text_rate and stop and stop > 0:
            table["phases"] = {"text": [0.0, fraction_of_run(stop, values, problems)]}
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table["preview"] = convert_preview(values, notes)
        table["export"] = {"dtype": "fp32", "model": convert_layout(given, problems)}
        table["hooks"] = convert_hooks(values, notes, problems)
        if problems:
            raise ConfigError(problems, self.name)

        # What the original writes and we do not.
        if convert_export(values).keys() & {"every_steps", "every_epochs"}:
            notes.append("save_every_n_*: the model is written at the end only; save_state writes checkpoints before")
        if values["vae"] and not is_folder(base):
            notes.append("vae: the base is a single file, so the written model contains the VAE of the base")
        if values["save_precision"]:
            notes.append("save_precision is ignored: the model has the dtypes of the base")
        return Conversion(
            without_empty(table),
            notes,
            model_copy_targets(given, Path(table["output"])),
            resume,
            product="model",
            first_batches_image=first_batches_image(values),
            secrets=secrets,
        )


def text_learning_rate(values: Mapping[str, Any]) -> float:
    """The text encoder's learning rate; 0 if it is not trained at all."""
    if values["stop_text_encoder_training"] == -1:
        return 0.0
    return values["learning_rate"] if values["learning_rate_te"] is None else values["learning_rate_te"]


def fraction_of_run(stop: int, values: Mapping[str, Any], problems: list[Problem]) -> float:
    """A number of steps as a fraction of the run."""
    if values["max_train_epochs"]:
        found = "is a number of steps, but the run's length is given in epochs"
        remedy = "use max_train_steps instead of max_train_epochs"
        problems.append(Problem("stop_text_encoder_training", found, remedy=remedy))
        return 1.0
    return min(1.0, stop / values["max_train_steps"])


def is_folder(base: Any) -> bool:
    """Whether a base model is a folder or a hub id, and not a single file."""
    return Path(str(base)).suffix.lower() not in (".safetensors", ".ckpt")


def convert_layout(values: Mapping[str, Any], problems: list[Problem]) -> str:
    """Our `export.model`: a single file, or the layout of the base."""
    layout = str(values["save_model_as"] or "").lower()
    if layout == "ckpt":
        found = "ckpt is a pickle, which can contain code"
        problems.append(Problem("save_model_as", found, remedy="use safetensors, which every program reads"))
    if layout in FOLDER_LAYOUTS and not is_folder(values["pretrained_model_name_or_path"]):
        found = f"cannot be {layout}: the base is one file"
        remedy = "name the diffusers folder of the base in pretrained_model_name_or_path"
        problems.append(Problem("save_model_as", found, remedy=remedy))
    return "single_file" if layout == "safetensors" else "layout"


def model_copy_targets(values: Mapping[str, Any], run: Path) -> dict[str, Path]:
    """Where the original writes a model that is a single file.

    A folder is not copied: the original writes it to the place of our run's folder.
    """
    name = output_name(values)
    layout = str(values["save_model_as"] or "").lower()
    if layout in FOLDER_LAYOUTS or (not layout and is_folder(values["pretrained_model_name_or_path"])):
        return {}
    return {f"{name}.model.safetensors": Path(values["output_dir"] or run.parent) / f"{name}.safetensors"}

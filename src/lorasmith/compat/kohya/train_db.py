"""`train_db`: DreamBooth (arXiv 2208.12242) by training the whole model, and a whole model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.images import convert_data
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer, convert_schedule
from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options.dreambooth import OPTIONS
from lorasmith.compat.kohya.outputs import convert_export
from lorasmith.compat.kohya.previews import convert_preview
from lorasmith.compat.kohya.train_network import (
    TrainNetwork,
    further_hooks,
    general,
    look_of,
    name_of,
    remarks,
    resumed_from,
    text_of,
)
from lorasmith.compat.kohya.uploads import secrets_of
from lorasmith.compat.script import Conversion, Parsed
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.training.output.folder import find_resume_point

FOLDERS = ("diffusers", "diffusers_safetensors")


class TrainDb(TrainNetwork):
    """All weights of SD 1.x or 2.x."""

    name = "train_db"
    options = OPTIONS

    def convert(self, parsed: Parsed) -> Conversion:
        given = {option.name: option.default for option in NETWORK_OPTIONS} | parsed.values
        values = given | {"save_model_as": "safetensors", "unet_lr": None}
        notes, problems = remarks(self, parsed), []
        run = resumed_from(values)
        if run and not values["pretrained_model_name_or_path"]:  # with the run's own settings
            return Conversion(
                {},
                notes,
                copies_of(given, find_resume_point(run).run),
                run,
                product="model",
                secrets=secrets_of(values),
            )
        table = general(values, notes, problems)
        rate, stop = text_rate(values), values["stop_text_encoder_training"]
        table["data"] = convert_data(replace(parsed, values=values), notes, problems)
        table["text"] = text_of(values, problems)
        table["adapter"] = {"kind": "full", "layers": "*", "bias": True, "norms": True}
        table["objective"] = convert_objective(values, problems)
        if any(subset.get("masks") for subset in table["data"].get("subsets", ())):
            table["objective"] = {"kind": "denoising", **table["objective"], "mask_mean": "image"}
        table["optimizer"] = convert_optimizer(values, notes, problems) | {"text_lr": rate}
        if rate and stop and stop > 0:
            table["phases"] = {"text": [0.0, share_of(stop, values, problems)]}
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table |= convert_preview(values, notes)
        table["export"] = {"dtype": "fp32", "model": layout_of(given, problems)}
        table["hooks"] = further_hooks(values, notes, problems)
        if problems:
            raise ConfigError(problems, self.name)
        if convert_export(values).get("export", {}).keys() & {"every_steps", "every_epochs"}:
            notes.append("save_every_n_*: a whole model is written at the end; save_state makes checkpoints before")
        if values["vae"] and not is_folder(values["pretrained_model_name_or_path"]):
            notes.append("vae: the model that is written keeps the base's own VAE, since the base is one file")
        if values["save_precision"]:
            notes.append("save_precision is left out: the model has the dtypes of the base")
        table = {key: value for key, value in table.items() if value not in (None, {}, [])}
        copies = copies_of(given, Path(table["output"]))
        own = {"first_batches_image": look_of(values), "secrets": secrets_of(values)}
        return Conversion(table, notes, copies, run, product="model", **own)


def text_rate(values: Mapping[str, Any]) -> float:
    """The text encoder's learning rate."""
    if values["stop_text_encoder_training"] == -1:
        return 0.0
    return values["learning_rate"] if values["learning_rate_te"] is None else values["learning_rate_te"]


def share_of(stop: int, values: Mapping[str, Any], problems: list[Problem]) -> float:
    """Steps as a share of the run."""
    if values["max_train_epochs"]:
        remedy = "give max_train_steps in place of max_train_epochs"
        problems.append(Problem("stop_text_encoder_training", "is a number of steps", remedy=remedy))
        return 1.0
    return min(1.0, stop / values["max_train_steps"])


def is_folder(base: Any) -> bool:
    """Whether a base comes as a folder: all but single files do."""
    return Path(str(base)).suffix.lower() not in (".safetensors", ".ckpt")


def layout_of(values: Mapping[str, Any], problems: list[Problem]) -> str:
    """Our `export.model`."""
    base, kind = values["pretrained_model_name_or_path"], str(values["save_model_as"] or "").lower()
    if kind == "ckpt":
        remedy = "use safetensors: every program reads it"
        problems.append(Problem("save_model_as", "ckpt is a pickle, which can carry code", remedy=remedy))
    if kind in FOLDERS and not is_folder(base):
        remedy = "name the diffusers folder of the base in pretrained_model_name_or_path"
        problems.append(Problem("save_model_as", f"{kind}, and the base is one file", remedy=remedy))
    return "single_file" if kind == "safetensors" else "layout"


def copies_of(values: Mapping[str, Any], run: Path) -> dict[str, Path]:
    """Where the original writes a model that is one file. A folder stays in the run, whose place it would take."""
    name = name_of(values)
    kind = str(values["save_model_as"] or "").lower()
    folder = kind in FOLDERS or (not kind and is_folder(values["pretrained_model_name_or_path"]))
    target = Path(values["output_dir"] or run.parent) / f"{name}.safetensors"
    return {} if folder else {f"{name}.model.safetensors": target}

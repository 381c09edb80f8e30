"""`train_textual_inversion` and its layer-wise form: new tokens only, in the file formats of the originals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

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
from lorasmith.compat.kohya.options import SDXL_OPTIONS
from lorasmith.compat.kohya.options.inversion import OPTIONS
from lorasmith.compat.kohya.outputs import convert_export, output_folder, output_name
from lorasmith.compat.kohya.previews import convert_preview
from lorasmith.compat.kohya.resume import find_resume_path
from lorasmith.compat.kohya.train_network import TrainNetwork
from lorasmith.compat.kohya.uploads import secret_variables
from lorasmith.compat.prompt_templates import TEMPLATES
from lorasmith.compat.script import Conversion, Parsed
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.formats import token_embeddings

ADAMW_WEIGHT_DECAY = 0.01
"""The default of torch's AdamW, which the original uses for the new tokens."""


class TrainTextualInversion(TrainNetwork):
    """A new token of SD 1.x or 2.x, with one set of vectors."""

    name = "train_textual_inversion"
    options = OPTIONS
    layerwise: ClassVar[bool] = False

    def convert(self, parsed: Parsed) -> Conversion:
        # The shared converters read all options of train_network; those that this script lacks get their defaults.
        defaults = {option.name: option.default for option in NETWORK_OPTIONS}
        values = defaults | parsed.values
        notes = no_effect_notes(self, parsed)
        problems: list[Problem] = []
        if not values["token_string"]:
            problems.append(Problem("token_string", "missing", remedy="give the new token, as it is used in captions"))
            raise ConfigError(problems, self.name)
        token = str(values["token_string"]).strip()
        token_file = token_embeddings.file_name(token)
        values["output_name"] = values["output_name"] or token_file
        secrets = secret_variables(values)
        resume = find_resume_path(values)
        if resume and not values["pretrained_model_name_or_path"]:
            # Without a base model, the run continues with the settings in its folder.
            return Conversion({}, notes, resume=resume, product="token", secrets=secrets)

        table = convert_general(values, notes, problems)
        table["trigger"] = [token]
        table["data"] = convert_data(replace(parsed, values=values), notes, problems)
        subsets = table["data"].get("subsets", ())
        for subset in subsets:
            subset.setdefault("transforms", []).extend(convert_templates(values, token, problems))
        table["objective"] = convert_objective(values, subsets, problems)
        table["text"] = convert_text(values, notes, problems, sdxl=self.sdxl)
        table["optimizer"] = convert_optimizer(values, notes, problems)

        # Only the new token is trained: with rates of 0 there is no adapter.
        table["optimizer"] |= {"unet_lr": 0.0, "text_lr": 0.0}
        table["concepts"] = [convert_concept(values, token, table["optimizer"], self.layerwise)]
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table["preview"] = convert_preview(values, notes)
        table["export"] = convert_export(values)

        # The run's folder gets our exact form; this hook writes the original's form to output_dir.
        container = str(values["save_model_as"]).lower()
        files = convert_export(values)
        # these files have no metadata of the run
        files.pop("metadata", None)
        token_hook = {
            "dtype": "fp32",
            **files,
            "kind": "words",
            "folder": output_folder(values),
            "layers": self.layerwise,
            "container": container,
        }
        table["hooks"] = [token_hook, *convert_hooks(values, notes, problems)]
        if problems:
            raise ConfigError(problems, self.name)

        # Automatic1111 and others make the token of a prompt from the name of the file.
        name = output_name(values)
        if token_file != name:
            notes.append(f"user interfaces use the file's name as the token: {name}")

        # The hook writes the file to its place during training, so there is nothing left to copy.
        file = f"{name}.{container}"
        copy_targets = {f"../{file}": Path(output_folder(values)) / file}
        return Conversion(
            without_empty(table),
            notes,
            copy_targets,
            resume,
            product="token",
            first_batches_image=first_batches_image(values),
            secrets=secrets,
        )


class TrainTextualInversionXti(TrainTextualInversion):
    """A new token with separate vectors for each cross-attention layer (XTI, arXiv 2303.09522)."""

    name = "train_textual_inversion_XTI"
    layerwise = True


class SdxlTrainTextualInversion(TrainTextualInversion):
    """A new token of SDXL, with vectors for each of its text encoders."""

    name = "sdxl_train_textual_inversion"
    options = (*OPTIONS, *SDXL_OPTIONS)
    sdxl = True


def convert_concept(
    values: Mapping[str, Any], token: str, optimizer: Mapping[str, Any], layerwise: bool
) -> dict[str, Any]:
    """One table of `concepts`. The weight decay is the optimizer's, as in the original."""
    default_decay = ADAMW_WEIGHT_DECAY if optimizer.get("kind") in ("adamw", "adamw8bit") else 0.0
    decay = optimizer.get("args", {}).get("weight_decay", default_decay)
    table = {
        "words": [token],
        "vectors": values["num_vectors_per_token"],
        "init": values["weights"] or values["init_word"],
        "layerwise": layerwise,
        "lr": values["learning_rate"],
        "weight_decay": optimizer.get("weight_decay", decay),
    }
    return {key: value for key, value in table.items() if value not in (None, "")}


def convert_templates(values: Mapping[str, Any], token: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """The transform that replaces captions with prompt templates about an object or a style, if it is chosen."""
    kinds = [kind for kind in ("object", "style") if values[f"use_{kind}_template"]]
    if not kinds:
        return []
    if len(kinds) > 1:
        found = "cannot be combined with use_style_template"
        problems.append(Problem("use_object_template", found, remedy="choose one of them"))
    templates = [template.replace("{caption}", token) for template in TEMPLATES[kinds[0]]]
    return [{"kind": "template", "templates": templates}]

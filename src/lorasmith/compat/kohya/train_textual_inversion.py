"""`train_textual_inversion` and its layer-wise form: new words alone, in the files that the originals write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.compat.kohya.images import convert_data
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer, convert_schedule
from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options import SDXL_OPTIONS
from lorasmith.compat.kohya.options.inversion import OPTIONS
from lorasmith.compat.kohya.outputs import convert_export, folder_of
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
from lorasmith.compat.prompt_templates import SENTENCES
from lorasmith.compat.script import Conversion, Parsed
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.formats import token_embeddings

ADAMW_DECAY = 0.01


class TrainTextualInversion(TrainNetwork):
    """A word of SD 1.x or 2.x with one set of vectors."""

    name = "train_textual_inversion"
    options = OPTIONS
    layerwise: ClassVar[bool] = False

    def convert(self, parsed: Parsed) -> Conversion:
        given = {option.name: option.default for option in NETWORK_OPTIONS} | parsed.values
        notes, problems = remarks(self, parsed), []
        if not given["token_string"]:
            problems.append(Problem("token_string", "missing", remedy="give the new word, as captions have it"))
            raise ConfigError(problems, self.name)
        word = str(given["token_string"]).strip()
        values = given | {"output_name": given["output_name"] or token_embeddings.file_name(word)}
        secrets = secrets_of(values)
        run = resumed_from(values)
        if run and not values["pretrained_model_name_or_path"]:  # with the run's own settings
            return Conversion({}, notes, resume=run, product="token", secrets=secrets)
        table = general(values, notes, problems) | {"trigger": [word]}
        table["data"] = convert_data(replace(parsed, values=values), notes, problems)
        for subset in table["data"].get("subsets", ()):
            subset.setdefault("transforms", []).extend(templates(values, word, problems))
        if any(subset.get("masks") for subset in table["data"].get("subsets", ())):
            table["objective"] = {"kind": "denoising", **convert_objective(values, problems), "mask_mean": "image"}
        else:
            table["objective"] = convert_objective(values, problems)
        table["text"] = text_of(values, problems)
        table["optimizer"] = convert_optimizer(values, notes, problems) | {"unet_lr": 0.0, "text_lr": 0.0}
        table["concepts"] = [concept(values, word, table["optimizer"], self.layerwise)]
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table |= convert_preview(values, notes) | convert_export(values)
        table["hooks"] = [self.word_files(values), *further_hooks(values, notes, problems)]
        if problems:
            raise ConfigError(problems, self.name)
        if token_embeddings.file_name(word) != name_of(values):
            notes.append(f"user interfaces call the word as its file is called: {name_of(values)}")
        table = {key: value for key, value in table.items() if value not in (None, {}, [])}
        file = f"{name_of(values)}.{str(values['save_model_as']).lower()}"
        copies = {f"../{file}": Path(folder_of(values)) / file}  # stands there already
        return Conversion(
            table, notes, copies, run, product="token", first_batches_image=look_of(values), secrets=secrets
        )

    def word_files(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The hook that writes the original's files where the original does."""
        often = convert_export(values).get("export", {})
        own = {"kind": "words", "folder": folder_of(values), "layers": self.layerwise}
        return {"dtype": "fp32", **often, **own, "container": str(values["save_model_as"]).lower()}


class TrainTextualInversionXti(TrainTextualInversion):
    """A word with vectors for each cross-attention layer."""

    name = "train_textual_inversion_XTI"
    layerwise = True


class SdxlTrainTextualInversion(TrainTextualInversion):
    """A word of SDXL: vectors for each of its text encoders."""

    name = "sdxl_train_textual_inversion"
    options = (*OPTIONS, *SDXL_OPTIONS)


def concept(values: Mapping[str, Any], word: str, optimizer: Mapping[str, Any], layerwise: bool) -> dict[str, Any]:
    """The table of the new word; the optimizer's weight decay is its own, as in the original."""
    decay = {"adamw": ADAMW_DECAY, "adamw8bit": ADAMW_DECAY}.get(str(optimizer.get("kind")), 0.0)
    found = {
        "words": [word],
        "vectors": values["num_vectors_per_token"],
        "init": values["weights"] or values["init_word"],
        "layerwise": layerwise,
        "lr": values["learning_rate"],
        "weight_decay": optimizer.get("weight_decay", optimizer.get("args", {}).get("weight_decay", decay)),
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def templates(values: Mapping[str, Any], word: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """Sentences about an object or a style, if they are to stand in place of captions."""
    asked = [kind for kind in ("object", "style") if values[f"use_{kind}_template"]]
    if len(asked) > 1:
        problems.append(Problem("use_object_template", "with use_style_template", remedy="choose one of them"))
    return [
        {"kind": "template", "templates": [sentence.replace("{caption}", word) for sentence in SENTENCES[kind]]}
        for kind in asked[:1]
    ]

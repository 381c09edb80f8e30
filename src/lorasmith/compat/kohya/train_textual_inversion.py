"""`train_textual_inversion` and its layer-wise form: new words alone, in the files that the originals write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.compat.kohya.images import convert_data
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer, convert_schedule
from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options import SDXL_OPTIONS
from lorasmith.compat.kohya.options.inversion import OPTIONS
from lorasmith.compat.kohya.sending import secrets_of
from lorasmith.compat.kohya.showing import convert_preview
from lorasmith.compat.kohya.train_network import (
    TrainNetwork,
    further_hooks,
    general,
    name_of,
    remarks,
    resumed_from,
    text_of,
)
from lorasmith.compat.kohya.writing import DTYPES, convert_export
from lorasmith.compat.options import Conversion, Parsed
from lorasmith.compat.sentences import SENTENCES
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.core.store import write_with
from lorasmith.formats import embeddings, words, xti
from lorasmith.formats.read import load
from lorasmith.formats.write import write

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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
        values = given | {"output_name": given["output_name"] or words.file_name(word), "save_model_as": "safetensors"}
        finish = self.writer(values | {"save_model_as": given["save_model_as"]}, word)
        secrets = secrets_of(values)
        if run := resumed_from(values):
            return Conversion({}, notes, resume=run, makes="word", finish=finish, secrets=secrets)
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
        table["hooks"] = further_hooks(values, notes, problems)
        if problems:
            raise ConfigError(problems, self.name)
        if words.file_name(word) != name_of(values):
            notes.append(f"user interfaces call the word as its file is called: {name_of(values)}")
        table = {key: value for key, value in table.items() if value not in (None, {}, [])}
        return Conversion(table, notes, makes="word", finish=finish, secrets=secrets)

    def writer(self, values: Mapping[str, Any], word: str) -> Callable[[Path], list[Path]]:
        """What writes the original's file from the folder of a run."""
        kind = str(values["save_model_as"]).lower()
        name = name_of(values)
        dtype = TORCH[DTYPES[str(values["save_precision"] or "float").lower()]]
        target = Path(values["output_dir"] or ".") / f"{name}.{kind}"

        def finish(folder: Path) -> list[Path]:
            trained = load(folder / f"{name}.exact.safetensors").words[word]
            tensors = {key: t.to(dtype).contiguous() for key, t in self.encode(trained).items()}
            if kind == "safetensors":
                write(target, tensors, {"modelspec.title": name, "ss_output_name": name}, dtype)
            else:
                write_with(target, lambda path: torch.save(tensors, path))
            return [target]

        return finish

    def encode(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the original's file. `vectors`: (vectors, 1, width) by text encoder."""
        return embeddings.encode(words.plain({"": dict(vectors)})[""])


class TrainTextualInversionXti(TrainTextualInversion):
    """A word with vectors for each cross-attention layer."""

    name = "train_textual_inversion_XTI"
    layerwise = True

    def encode(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return xti.encode(vectors["te"])


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

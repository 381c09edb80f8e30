"""`train_network`, the LoRA script: its command line, its files, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lorasmith.compat.kohya.blocks import Blocks, sd_blocks, sdxl_blocks
from lorasmith.compat.kohya.images import convert_data
from lorasmith.compat.kohya.network import convert_network
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer, convert_schedule
from lorasmith.compat.kohya.options import OPTIONS, SDXL_OPTIONS
from lorasmith.compat.kohya.outputs import convert_export, folder_of, resumed, states
from lorasmith.compat.kohya.previews import convert_preview, convert_validation
from lorasmith.compat.kohya.reading import flat, read_file
from lorasmith.compat.kohya.uploads import SECRETS, downloaded, secrets_of, tracking, uploads
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.config import to_toml
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.training.config import SpecField

PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


class TrainNetwork(Script):
    """A LoRA of SD 1.x or 2.x."""

    name = "train_network"
    origin = "kohya-ss/sd-scripts"
    options = OPTIONS

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The config file's values, with the command line's on top."""
        words, warnings = split_arguments(self.options, argv)
        given: dict[str, Any] = {}
        asked = words.pop("output_config", None)
        if words.get("config_file") and not asked:
            given, said = flat(read_file(Path(words["config_file"]).expanduser()))
            warnings += said
        given.pop("output_config", None)
        given |= words
        parsed = self.read(given, warnings)
        if asked:
            return replace(parsed, done_message=write_values(Path(str(words.get("config_file") or "")), parsed))
        return parsed

    def read(self, given: Mapping[str, Any], warnings: list[str]) -> Parsed:
        """Given values in their types; the old spelling of caption_extension counts where the new one is unset."""
        old = given.get("caption_extention")
        if old and not given.get("caption_extension"):
            given = {**given, "caption_extension": old}
        return super().read(given, warnings)

    def blocks(self) -> Blocks:
        """How blocks of the UNet are counted."""
        return sd_blocks()

    def convert(self, parsed: Parsed) -> Conversion:
        values, notes, problems = parsed.values, [], []
        notes += remarks(self, parsed)
        resume = resumed_from(values)
        if resume and not values["pretrained_model_name_or_path"]:  # with the run's own settings
            return Conversion({}, notes, resume=resume, secrets=secrets_of(values))
        table = general(values, notes, problems)
        table["data"] = convert_data(parsed, notes, problems)
        table["merge"] = merged(values, notes)
        table["text"] = text_of(values, problems)
        table["adapter"] = convert_network(values, self.blocks(), notes, problems)
        if values["network_weights"]:
            table["start"] = str(values["network_weights"])
        table["objective"] = convert_objective(values, problems)
        if any(subset.get("masks") for subset in table["data"].get("subsets", ())):
            table["objective"] = {"kind": "denoising", **table["objective"], "mask_mean": "image"}
        table["optimizer"] = convert_optimizer(values, notes, problems)
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table |= convert_preview(values, notes) | convert_validation(values)
        files = {"folder": folder_of(values), "container": str(values["save_model_as"] or "safetensors").lower()}
        table["export"] = convert_export(values).get("export", {}) | files
        table["hooks"] = further_hooks(values, notes, problems)
        table |= first_step(values, resume is not None, notes)
        if problems:
            raise ConfigError(problems, self.name)
        table = {k: v for k, v in table.items() if v not in (None, {}, [])}
        return Conversion(table, notes, resume=resume, first_batches_image=look_of(values), secrets=secrets_of(values))


class SdxlTrainNetwork(TrainNetwork):
    """A LoRA of SDXL."""

    name = "sdxl_train_network"
    options = (*OPTIONS, *SDXL_OPTIONS)

    def blocks(self) -> Blocks:
        return sdxl_blocks()


def general(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """What stands at the top of our config."""
    base = values["pretrained_model_name_or_path"]
    if not base:
        remedy = "name a .safetensors file, a diffusers folder or a hub id"
        problems.append(Problem("pretrained_model_name_or_path", "missing", remedy=remedy))
    if values["seed"] is None:
        notes.append("seed: 0, so that the run can be repeated; the original draws one")
    table: dict[str, Any] = {
        "base": base,
        "vae": values["vae"],
        "output": str(Path(values["output_dir"] or ".") / name_of(values)),
        "name": name_of(values),
        "trigger": [values["metadata_trigger_phrase"]] if values["metadata_trigger_phrase"] else None,
        "seed": values["seed"] or 0,
        "accumulation": values["gradient_accumulation_steps"],
        "precision": PRECISIONS[str(values["mixed_precision"]).lower()],
        "gradient_checkpointing": bool(values["gradient_checkpointing"]),
        "prediction": "v_prediction" if values["v_parameterization"] else None,
        "zero_terminal_snr": bool(values["zero_terminal_snr"]),
        "comment": values["training_comment"] or None,
        "metadata": {name: str(v) for name in get_args(SpecField) if (v := values.get(f"metadata_{name}"))},
    }
    if values["max_train_epochs"]:
        table["epochs"] = values["max_train_epochs"]
    else:
        table["steps"] = values["max_train_steps"]
    for name, precision in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
        if values[name] and table["precision"] != precision:
            remedy = f"set mixed_precision = {precision}, or leave {name} out"
            problems.append(Problem(name, f"with mixed_precision = {values['mixed_precision']}", remedy=remedy))
    return table


def merged(values: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Files that are merged into the base, with their strengths; what has no multiplier has 1."""
    files, strengths = values["base_weights"] or [], values["base_weights_multiplier"] or []
    if len(strengths) > len(files):
        notes.append(f"base_weights_multiplier: {len(strengths)} numbers for {len(files)} files; the rest is left out")
    if not files:
        return []
    found = [f"{file}:{strength:g}" for file, strength in zip(files, [*strengths, *[1.0] * len(files)], strict=False)]
    notes.append(f"base_weights: the new LoRA is one for the merged base; draw it with {', '.join(found)} before it")
    return found


def name_of(values: Mapping[str, Any]) -> str:
    """The file's name without suffix."""
    return values["output_name"] or "last"


def resumed_from(values: Mapping[str, Any]) -> Path | None:
    """What `resume` names here, fetched from the hub if it is there. Raises LorasmithError if it is nothing of ours."""
    if not values["resume"]:
        return None
    return resumed({**values, "resume": downloaded(values)} if values["resume_from_huggingface"] else values)


def look_of(values: Mapping[str, Any]) -> Path | None:
    """The picture of the data, if the original would show them in place of training."""
    return Path(folder_of(values)) / f"{name_of(values)}-dataset.jpg" if values["debug_dataset"] else None


def further_hooks(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> list[dict[str, Any]]:
    """States, uploads and Weights & Biases."""
    return [*states(values), *uploads(values, problems), *tracking(values, notes)]


def first_step(values: Mapping[str, Any], resumes: bool, notes: list[str]) -> dict[str, Any]:
    """Where a run begins that goes on from a file."""
    step, epoch = values["initial_step"], values["initial_epoch"]
    if resumes and (step or epoch):
        notes.append("initial_step and initial_epoch are left out: the state says where the run goes on")
    if resumes or not (step or epoch):
        return {}
    return {"first_step": step} if step else {"first_epoch": epoch - 1}


def text_of(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The table `text`."""
    length, skip = values["max_token_length"], values["clip_skip"]
    table: dict[str, Any] = {}
    if length and length not in (75, 150, 225):
        problems.append(Problem("max_token_length", f"found {length}", "75, 150, 225"))
    elif length and length != 75:
        table["max_tokens"] = length
    if skip and skip > 1:
        table["clip_skip"] = skip
    if values["weighted_captions"]:
        table["weighted"] = True
    return table


def remarks(script: Script, parsed: Parsed) -> list[str]:
    """What was given and has no effect here."""
    options = {option.name: option for option in script.options}
    return [
        f"{name} has no effect here: {options[name].note}"
        for name in sorted(parsed.given)
        if options[name].state == "no_effect" and not options[name].is_unset(parsed.values[name])
    ]


def write_values(path: Path, parsed: Parsed) -> str:
    """What --output_config does: write the values that were given into the config file, and end."""
    target = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    if path == Path() or target.exists():
        raise LorasmithError(f"--output_config needs --config_file with the name of a new file; found {target}")
    apart = ("config_file", "output_config", *SECRETS)
    given = {k: parsed.values[k] for k in sorted(parsed.given) if k not in apart}
    target.write_text(to_toml(given), encoding="utf-8")
    secret = sorted(parsed.given & SECRETS.keys())
    return f"written: {target}" + (f", without {' and '.join(secret)}, which belong in no file" if secret else "")

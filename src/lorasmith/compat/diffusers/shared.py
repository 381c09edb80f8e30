"""What diffusers' training scripts have in common, as parts of our config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.diffusers.usage import DIFFUSERS_FILE
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.core.launch import find_launch
from lorasmith.data.image_suffixes import SUFFIXES

PRECISIONS = {None: "auto", "no": "fp32", "fp16": "fp16", "bf16": "bf16"}
HUB_TOKEN = "HF_TOKEN"
"""The environment variable that holds the token of the hub, which no file may contain."""
POSITIVE = ("train_batch_size", "gradient_accumulation_steps", "sample_batch_size", "rank", "repeats")
"""Options, where a script has them, that are counts."""

Values = dict[str, Any]
"""Option name to value."""
Table = dict[str, Any]
"""A part of our config."""


def require(script: Script, values: Values, *names: str) -> None:
    """Raise ConfigError with all of these options that are missing, and with numbers that no run can have."""
    problems = [Problem(f"--{name}", "missing", remedy="add it") for name in names if values[name] in (None, "")]

    # Found here, under the name that the user gave, and before class images are drawn at that size.
    resolution = values["resolution"]
    if resolution % DOWNSCALE or resolution < 2 * DOWNSCALE:
        smaller = max(2, resolution // DOWNSCALE) * DOWNSCALE
        allowed = f"a multiple of {DOWNSCALE}, at least {2 * DOWNSCALE}"
        remedy = f"use {smaller} or {smaller + DOWNSCALE}"
        problems.append(Problem("--resolution", f"found {resolution}", allowed, remedy))
    for name in POSITIVE:
        number = values.get(name)
        if number is not None and number < 1:
            problems.append(Problem(f"--{name}", f"found {number}", "1 or more"))
    if problems:
        raise ConfigError(problems, script.name)


def make_conversion(
    script: Script, parsed: Parsed, config: Table, usage: Sequence[str] = (), **more: Any
) -> Conversion:
    """The conversion with notes on options that differ from the original. `usage`: lines of Python that load the files
    with diffusers, for the model card. `more`: further fields of Conversion."""
    notes: list[str] = []
    for option in script.options:
        if option.name in parsed.given and option.state in ("improved", "no_effect") and option.note:
            notes.append(f"--{option.name}: {option.note}")

    values, secrets = parsed.values, {}
    hooks: list[Table] = config.setdefault("hooks", [])
    hooks.append(convert_card(values, usage))
    if values["push_to_hub"]:
        hooks.append(convert_upload(values, more.get("copy_targets", {})))
        if values["hub_token"]:
            secrets[HUB_TOKEN] = str(values["hub_token"])

    # The original resumes if there is a checkpoint in output_dir, and starts a run otherwise.
    output = Path(str(config["output"]))
    resumes = values["resume_from_checkpoint"] and (output / "config.toml").is_file()
    return Conversion(config, notes, resume=output if resumes else None, secrets=secrets, **more)


def repository(values: Values) -> str:
    """The repository of the files; without --hub_model_id it is called like the folder."""
    return values["hub_model_id"] or Path(values["output_dir"]).name


def convert_card(values: Values, usage: Sequence[str]) -> Table:
    """The hook `model_card`: README.md in the output folder."""
    prompt = values.get("instance_prompt")
    table: Table = {"kind": "model_card", "repo": repository(values), "usage": list(usage)}
    return table | ({"prompt": prompt} if prompt else {})


def convert_upload(values: Values, copy_targets: Mapping[str, Path]) -> Table:
    """The hook `upload`: a public repository, in which files have the original's names."""
    return {
        "kind": "upload",
        "repo": repository(values),
        "public": True,
        "names": {Path(file).name: target.name for file, target in copy_targets.items()},
        "token_from": HUB_TOKEN,
    }


def convert_general(values: Values, image_count: int | None) -> Table:
    """Base, output, length, precision, checkpoints and previews.

    `image_count`: how many images an epoch of the original has; None if it is not known yet.
    """
    table: Table = {
        "base": values["pretrained_model_name_or_path"],
        "output": values["output_dir"],
        "seed": values["seed"] or 0,
        **convert_length(values, image_count),
        "accumulation": values["gradient_accumulation_steps"],
        "gradient_checkpointing": values["gradient_checkpointing"],
        "precision": PRECISIONS[values["mixed_precision"]],
        "checkpoint": {
            "every_steps": values["checkpointing_steps"],
            # The original keeps all checkpoints by default.
            "keep": values["checkpoints_total_limit"] or 100_000,
        },
        "lr_schedule": convert_schedule(values),
    }
    vae = values.get("pretrained_vae_model_name_or_path")
    if vae:
        table["vae"] = vae
    preview = convert_preview(values)
    if preview:
        table["preview"] = preview
    return table


def convert_length(values: Values, image_count: int | None) -> Table:
    """`steps`; `epochs` where the number of images is not known yet."""
    if values["max_train_steps"]:
        return {"steps": values["max_train_steps"]}
    if image_count is None:
        return {"epochs": values["num_train_epochs"]}
    # The original counts epochs in optimizer steps; incomplete batches count as whole ones. Each process has batches
    # of its own.
    batches = math.ceil(max(1, image_count) / values["train_batch_size"] / find_launch().count)
    steps_per_epoch = max(1, math.ceil(batches / values["gradient_accumulation_steps"]))
    return {"steps": values["num_train_epochs"] * steps_per_epoch}


def convert_learning_rate(values: Values) -> float:
    """The learning rate, multiplied by the number of images in a step if --scale_lr is given."""
    if values["scale_lr"]:
        batches = values["gradient_accumulation_steps"] * find_launch().count
        return values["learning_rate"] * values["train_batch_size"] * batches
    return values["learning_rate"]


def convert_optimizer(values: Values, text_lr: float = 0.0) -> Table:
    """AdamW, its 8-bit form, or Prodigy. `text_lr`: the text encoder's learning rate; 0: it is not trained."""
    table: Table = {
        "lr": convert_learning_rate(values),
        "text_lr": text_lr,
        "clip": values["max_grad_norm"] or 0.0,
    }
    # As in the original, 0 counts as not given.
    if text_lr and values.get("adam_weight_decay_text_encoder"):
        table["text_weight_decay"] = values["adam_weight_decay_text_encoder"]
    shared: Table = {
        "betas": [values["adam_beta1"], values["adam_beta2"]],
        "eps": values["adam_epsilon"],
        "weight_decay": values["adam_weight_decay"],
    }
    if str(values.get("optimizer", "")).lower() == "prodigy":
        arguments = {
            **shared,
            "decouple": values["prodigy_decouple"],
            "use_bias_correction": values["prodigy_use_bias_correction"],
            "safeguard_warmup": values["prodigy_safeguard_warmup"],
        }
        # Prodigy derives beta3 from beta2 if it is not given.
        if values["prodigy_beta3"] is not None:
            arguments["beta3"] = values["prodigy_beta3"]
        return table | {"kind": "class", "name": "prodigyopt.Prodigy", "args": arguments}
    kind = "adamw8bit" if values["use_8bit_adam"] else "adamw"
    return table | {"kind": kind, **shared}


def convert_schedule(values: Values) -> Table:
    """The original's six schedules. `constant` ignores the warmup."""
    name = values["lr_scheduler"]
    table: Table = {"kind": "constant" if name.startswith("constant") else name}
    if name != "constant":
        table["warmup"] = values["lr_warmup_steps"]
    if name == "cosine_with_restarts":
        table["cycles"] = values["lr_num_cycles"]
    if name == "polynomial":
        table["power"] = values["lr_power"]
    return table


def convert_preview(values: Values) -> Table:
    """The validation prompt, with consecutive seeds for the requested number of images."""
    prompt = values["validation_prompt"]
    if not prompt:
        return {}
    first_seed = values["seed"] or 0
    seeds = range(first_seed, first_seed + values["num_validation_images"])
    # Steps, guidance scale and sampler are those of the originals' pipelines.
    table: Table = {
        "prompts": [f"{prompt} --d {seed}" for seed in seeds],
        "steps": 25,
        "cfg": 7.5,
        "sampler": "dpm++_2m",
    }
    if values.get("validation_steps"):
        table["every_steps"] = values["validation_steps"]
    else:
        table["every_epochs"] = values["validation_epochs"]
    return table


def convert_lora(values: Values) -> Table:
    """A LoRA of the attention layers with alpha = rank, initialised with Gaussian noise."""
    table: Table = {
        "kind": "dora" if values.get("use_dora") else "lora",
        "rank": values["rank"],
        "alpha": values["rank"],
        "layers": "attention",
        "dropout": values.get("lora_dropout") or 0.0,
    }
    # DoRA keeps its own initialisation.
    if table["kind"] == "lora":
        table["init"] = "gaussian"
    return table


def convert_objective(values: Values) -> Table:
    """Noise offset and min-SNR weighting."""
    table: Table = {"kind": "denoising"}
    if values.get("noise_offset"):
        table["noise"] = [{"kind": "offset", "strength": values["noise_offset"]}]
    if values.get("snr_gamma"):
        table["weightings"] = [{"kind": "min_snr", "gamma": values["snr_gamma"]}]
    return table


DIFFUSERS_EXPORT: Table = {"also": [{"kind": "peft"}]}
"""`export`: a file with diffusers' names beside the one with kohya's."""


def diffusers_copy_targets(output: str) -> dict[str, Path]:
    """The copy of the file with diffusers' names, under the name that the original gives to it."""
    return {f"{Path(output).name}.peft.safetensors": Path(output) / DIFFUSERS_FILE}


def count_images(folder: str | Path, option: str) -> int:
    """The number of images directly in a folder. Raises LorasmithError if the folder does not exist."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LorasmithError(f"--{option} {folder}: no such folder")
    return sum(1 for file in path.iterdir() if file.suffix.lower() in SUFFIXES)

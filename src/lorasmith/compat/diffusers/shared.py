"""What diffusers' training scripts have in common, as our config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.data.images import SUFFIXES

PRECISIONS = {None: "auto", "no": "fp32", "fp16": "fp16", "bf16": "bf16"}
WEIGHTS = "pytorch_lora_weights.safetensors"

Table = dict[str, Any]


def needed(script: Script, v: Table, *names: str) -> None:
    """Raise ConfigError naming every option of these that is missing."""
    missing = [Problem(f"--{name}", "missing", remedy="give it") for name in names if v[name] in (None, "")]
    if missing:
        raise ConfigError(missing, script.name)


def conversion(script: Script, parsed: Parsed, config: Table, **more: Any) -> Conversion:
    """The config with notes on what is done otherwise."""
    told = [o for o in script.options if o.name in parsed.given and o.state in ("improved", "no_effect") and o.note]
    notes = [f"--{o.name}: {o.note}" for o in told]
    resume = parsed.values["resume_from_checkpoint"]
    output = Path(str(config["output"]))
    going = output if resume and (output / "config.toml").is_file() else None
    return Conversion(config, notes, resume=going, **more)


def general(v: Table, images: int) -> Table:
    """Base, output, length, precision and log. `images`: how many samples an epoch of theirs has."""
    per_epoch = max(1, math.ceil(math.ceil(max(1, images) / v["train_batch_size"]) / v["gradient_accumulation_steps"]))
    return {
        "base": v["pretrained_model_name_or_path"],
        **({"vae": vae} if (vae := v.get("pretrained_vae_model_name_or_path")) else {}),
        "output": v["output_dir"],
        "seed": v["seed"] or 0,
        "steps": v["max_train_steps"] or v["num_train_epochs"] * per_epoch,
        "accumulation": v["gradient_accumulation_steps"],
        "gradient_checkpointing": v["gradient_checkpointing"],
        "precision": PRECISIONS[v["mixed_precision"]],
        "checkpoint": {"every_steps": v["checkpointing_steps"], "keep": v["checkpoints_total_limit"] or 100_000},
        "lr_schedule": lr_schedule(v),
        **preview(v),
    }


def optimizer(v: Table, text_lr: float = 0.0, *, unet: bool = True) -> Table:
    """AdamW, its 8-bit form, or Prodigy."""
    factor = v["train_batch_size"] * v["gradient_accumulation_steps"] if v["scale_lr"] else 1
    lr = v["learning_rate"] * factor
    found: Table = {"lr": lr, "text_lr": text_lr, "clip": v["max_grad_norm"] or 0.0}
    if not unet:
        found["unet_lr"] = 0.0
    betas = [v["adam_beta1"], v["adam_beta2"]]
    if str(v.get("optimizer", "")).lower() == "prodigy":
        arguments = {
            "betas": betas,
            "weight_decay": v["adam_weight_decay"],
            "eps": v["adam_epsilon"],
            "decouple": v["prodigy_decouple"],
            "use_bias_correction": v["prodigy_use_bias_correction"],
            "safeguard_warmup": v["prodigy_safeguard_warmup"],
        }
        beta3 = {} if v["prodigy_beta3"] is None else {"beta3": v["prodigy_beta3"]}
        return found | {"kind": "class", "name": "prodigyopt.Prodigy", "args": arguments | beta3}
    kind = "adamw8bit" if v["use_8bit_adam"] else "adamw"
    return found | {"kind": kind, "betas": betas, "eps": v["adam_epsilon"], "weight_decay": v["adam_weight_decay"]}


def lr_schedule(v: Table) -> Table:
    """Their six schedules."""
    name = v["lr_scheduler"]
    found: Table = {"kind": "constant" if name.startswith("constant") else name}
    if name != "constant":
        found["warmup"] = v["lr_warmup_steps"]
    if name == "cosine_with_restarts":
        found["cycles"] = v["lr_num_cycles"]
    if name == "polynomial":
        found["power"] = v["lr_power"]
    return found


def preview(v: Table) -> Table:
    """The validation prompt with as many seeds as pictures are asked for."""
    if not v["validation_prompt"]:
        return {}
    lines = [f"{v['validation_prompt']} --d {(v['seed'] or 0) + i}" for i in range(v["num_validation_images"])]
    steps = (
        {"every_steps": v["validation_steps"]} if v["validation_steps"] else {"every_epochs": v["validation_epochs"]}
    )
    return {"preview": {"prompts": lines, "steps": 25, "cfg": 7.5, "sampler": "dpm++_2m", **steps}}


def lora(v: Table) -> Table:
    """Their LoRA: attention layers, alpha = rank, Gaussian start."""
    kind = "dora" if v.get("use_dora") else "lora"
    dropout = v.get("lora_dropout") or 0.0
    found: Table = {"kind": kind, "rank": v["rank"], "alpha": v["rank"], "layers": "attention", "dropout": dropout}
    return found | ({"init": "gaussian"} if kind == "lora" else {})


def exports(output: str) -> Table:
    """kohya's file, and diffusers' beside it under its own name."""
    return {
        "config": {"export": {"also": [{"kind": "peft"}]}},
        "copies": {f"{Path(output).name}.peft.safetensors": Path(output) / WEIGHTS},
    }


def count_images(folder: str | Path, option: str) -> int:
    """Pictures directly in a folder. Raises LorasmithError if there is no such folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise LorasmithError(f"--{option} {folder}: no such folder")
    return sum(1 for file in path.iterdir() if file.suffix.lower() in SUFFIXES)


def objective(v: Table) -> Table:
    """Noise offset and min-SNR."""
    found: Table = {"kind": "denoising"}
    if v.get("noise_offset"):
        found["noise"] = [{"kind": "offset", "strength": v["noise_offset"]}]
    if v.get("snr_gamma"):
        found["weightings"] = [{"kind": "min_snr", "gamma": v["snr_gamma"]}]
    return found

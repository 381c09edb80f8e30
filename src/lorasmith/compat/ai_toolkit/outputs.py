"""From ai-toolkit's files, pictures, uploads and logs to ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.ai_toolkit.data import TAGS
from lorasmith.core.errors import Problem

DTYPES = {"float32": "fp32", "fp32": "fp32", "float16": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16"}
STEP_NAME = "{name}_{step:09d}"
"""The original's name of files of steps."""
EULER = ("flowmatch", "ddpm", "euler", "k_euler")
ITEM_KEYS = ("prompt", "width", "height", "neg", "seed", "guidance_scale", "sample_steps")
FLAGS = {"seed": "d", "cfg": "l", "steps": "s"}
"""Flags in prompts to those of sd-scripts, which we read."""
READ = ("n", "w", "h", "d", "l", "s")


def convert_export(values: Mapping[str, Any], *, flow: bool, problems: list[Problem]) -> dict[str, Any]:
    """The table `export`: SD3 and Flux as peft writes them, others with kohya's names."""
    dtype = str(values["save.dtype"]).lower()
    if dtype not in DTYPES:
        problems.append(Problem("save.dtype", f'found "{dtype}"', ", ".join(DTYPES)))
    keep = values["save.max_step_saves_to_keep"]
    table: dict[str, Any] = {
        "dtype": DTYPES.get(dtype, "fp32"),
        "every_steps": values["save.save_every"] or None,
        "step_name": STEP_NAME,
        "keep": keep if keep and keep > 0 else None,
    }
    if flow and str(values["network.type"]).lower() in ("lora", "locon"):
        table["format"] = "peft"
    return {key: value for key, value in table.items() if value is not None}


def convert_hooks(values: Mapping[str, Any], problems: list[Problem]) -> list[dict[str, Any]]:
    """Uploads, and Weights & Biases."""
    hooks: list[dict[str, Any]] = []
    if values["save.push_to_hub"]:
        if not values["save.hf_repo_id"]:
            problems.append(Problem("save.hf_repo_id", "missing", remedy="name the repository, user/name"))
        public = not values["save.hf_private"]
        hooks.append({"kind": "upload", "repo": values["save.hf_repo_id"] or "", "public": public})
    if values["logging.use_wandb"]:
        table = {"kind": "wandb", "project": values["logging.project_name"], "run_name": values["logging.run_name"]}
        hooks.append({key: value for key, value in table.items() if value})
    return hooks


def convert_preview(values: Mapping[str, Any], *, kind: str, flow: bool, problems: list[Problem]) -> dict[str, Any]:
    """The table `preview`: a line for each prompt, with its settings behind it. `kind`: of the model, such as `flux`;
    `flow`: it is one of flow matching."""
    items = sample_items(values, problems)
    if not items or values["train.disable_sampling"] or not values["sample.sample_every"]:
        return {}
    trigger = str(values["trigger_word"] or "")
    lines = [prompt_line(values, item, index, trigger, problems) for index, item in enumerate(items)]
    sampler = str(values["sample.sampler"])
    return {
        "prompts": lines,
        "every_steps": values["sample.sample_every"],
        "at_start": not values["train.skip_first_sample"],
        "sampler": "euler" if flow or sampler in EULER else sampler,
        "steps": values["sample.sample_steps"],
        # the guidance of Flux is an input of the network; a second pass would double it
        "cfg": 1.0 if kind == "flux" else max(1.0, values["sample.guidance_scale"]),
        "width": values["sample.width"],
        "height": values["sample.height"],
        "copies": str(Path(str(values["training_folder"] or ".")) / values["name"] / "samples"),
        "copy_name": "{time}__{step:09d}_{index}",
    }


def sample_items(values: Mapping[str, Any], problems: list[Problem]) -> list[dict[str, Any]]:
    """`samples`, or the list `prompts`, as tables with a prompt each."""
    items = values["sample.samples"]
    if items is None:
        items = [{"prompt": prompt} for prompt in values["sample.prompts"] or []]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        problems.append(Problem("sample.samples", f"found {items!r}"[:80], "a list of tables with a prompt"))
        return []
    for index, item in enumerate(items):
        for key in item:
            if key not in ITEM_KEYS:
                where = f"sample.samples.{index}.{key}"
                problems.append(Problem(where, "is not supported", ", ".join(ITEM_KEYS), "remove it"))
    return [item for item in items if item.get("prompt") is not None]


def prompt_line(
    values: Mapping[str, Any], item: Mapping[str, Any], index: int, trigger: str, problems: list[Problem]
) -> str:
    """A prompt with its settings as flags, which our previews read; those in the prompt itself come last and count."""
    text, *own = str(item["prompt"]).split("--")
    for tag in TAGS:
        text = text.replace(tag, trigger)
    seed = item.get("seed")
    if seed is None:
        seed = values["sample.seed"] + (index if values["sample.walk_seed"] else 0)
    flags: dict[str, Any] = {"d": seed}
    negative = item.get("neg", values["sample.neg"])
    if negative:
        flags["n"] = negative
    for key, flag in (("width", "w"), ("height", "h"), ("guidance_scale", "l"), ("sample_steps", "s")):
        if key in item:
            flags[flag] = item[key]
    for part in own:
        name, _, value = part.strip().partition(" ")
        name = FLAGS.get(name, name)
        if name in READ:
            flags[name] = value.strip()
        else:
            problems.append(Problem("sample.prompts", f'the flag --{name} in "{item["prompt"]}" is not supported'))
    return " ".join([" ".join(text.split()), *(f"--{name} {value}" for name, value in flags.items())])

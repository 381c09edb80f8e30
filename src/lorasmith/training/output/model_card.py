"""The page that the Hugging Face Hub shows for a LoRA: `README.md`, with a head of YAML that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from lorasmith.training.run import Run

MARK = "<!-- Written by lorasmith. A page without this line is never written over. -->"
"""Any page without this line is somebody's own."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""The hub refuses a page whose `base_model` is not the name of a repository."""
NO_LICENCE = (
    "Not stated yet. Choose one that the licence of the base model permits, and add it at the top of this file as "
    "`license: ...`."
)
FAMILY_TAGS = {
    "sd1": ("stable-diffusion", "stable-diffusion-diffusers"),
    "sd2": ("stable-diffusion", "stable-diffusion-diffusers"),
    "sdxl": ("stable-diffusion-xl", "stable-diffusion-xl-diffusers"),
}


@dataclass(frozen=True)
class CardFacts:
    """What the page says, apart from what the run itself knows."""

    repo: str = ""
    """Where the files will be, for the example; empty: the name of the run."""
    prompt: str = ""
    """The prompt that the images were trained with."""
    usage: Sequence[str] = ()
    """Lines of Python that load the files into `pipe`."""
    pictures: Sequence[str] = ()
    """Files of sample pictures beside the page."""
    picture_prompts: Sequence[str] = field(default_factory=tuple)
    """The prompt of each picture."""


def model_card(run: Run, facts: CardFacts) -> str:
    """The text of the page: base, trigger, sample pictures, settings, and how to load the files with diffusers.

    The licence is the one of `metadata.license`; without it the page says that the author has to choose one.
    """
    title = facts.repo.rsplit("/", 1)[-1] or run.name
    trigger = ", ".join(f"`{word}`" for word in run.trigger)
    license_name = str(run.config.metadata.get("license") or "")
    sections = [
        f"---\n{yaml.safe_dump(head(run, facts), sort_keys=False, allow_unicode=True)}---",
        MARK,
        f"# {title}",
        f"{product(run)} for `{base_name(run)}`, trained with Lorasmith.",
        f"Write {trigger} into the prompt." if trigger else "",
        f"Trained on the prompt `{facts.prompt}`." if facts.prompt else "",
        "\n".join(
            f"![{alt_text(prompt)}](./{file})"
            for file, prompt in zip(facts.pictures, facts.picture_prompts, strict=True)
        ),
        "## Use with diffusers\n\n" + usage_example(run, facts) if facts.usage else "",
        "## Settings\n\n" + settings_table(run),
        "## Licence\n\n" + (license_name or NO_LICENCE),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def head(run: Run, facts: CardFacts) -> dict[str, Any]:
    """The YAML that the hub reads."""
    kind = ("textual_inversion",) if len(run.adapters) == 0 else ("lora", "template:sd-lora")
    values: dict[str, Any] = {
        "library_name": "diffusers",
        "tags": ["text-to-image", "diffusers", *kind, *FAMILY_TAGS.get(run.family.kind, ())],
    }
    if HUB_ID.fullmatch(run.config.base) and not Path(run.config.base).exists():
        values["base_model"] = run.config.base
    if run.config.metadata.get("license"):
        values["license"] = run.config.metadata["license"]
    if facts.prompt:
        values["instance_prompt"] = facts.prompt
    if facts.pictures:
        values["widget"] = [
            {"text": prompt, "output": {"url": file}}
            for file, prompt in zip(facts.pictures, facts.picture_prompts, strict=True)
        ]
    return values


def product(run: Run) -> str:
    """What the files contain."""
    if len(run.adapters) == 0:
        return "A textual inversion"
    kind = str(getattr(run.config.adapter, "kind", ""))
    name = {"lora": "LoRA", "dora": "DoRA", "full": "Changed layers"}.get(kind, kind)
    return f"{name} and new tokens" if run.token_trainer is not None else name


def base_name(run: Run) -> str:
    """The name of the base without the folders of this machine."""
    base = run.config.base
    return Path(base).name if Path(base).exists() else base


def alt_text(prompt: str) -> str:
    """A prompt as the description of a picture in Markdown, where brackets would end it."""
    return re.sub(r"[\[\]\n]", " ", prompt).strip()


def usage_example(run: Run, facts: CardFacts) -> str:
    """Python code that draws with the files."""
    is_xl = run.family.kind == "sdxl"
    pipeline = "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline"
    prompt = facts.prompt or " ".join(run.trigger) or "a prompt"
    imports = [line for line in facts.usage if line.startswith(("import ", "from "))]
    lines = [
        "import torch",
        f"from diffusers import {pipeline}",
        *imports,
        "",
        f"repo = {facts.repo or run.name!r}",
        f"pipe = {pipeline}.from_pretrained({base_name(run)!r}, torch_dtype=torch.float16).to('cuda')",
        *(line for line in facts.usage if line not in imports),
        f"pipe({prompt!r}).images[0].save('picture.png')",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def settings_table(run: Run) -> str:
    """The settings that people ask for, as a Markdown table."""
    config = run.config
    rows: dict[str, Any] = {
        "steps": run.length.steps,
        "images in a step": config.data.batch_size * run.accumulation,
        "images": len(run.dataset.records),
        "resolution": " x ".join(str(side) for side in config.data.size),
    }
    for group in run.optimizer.param_groups:
        rows[f"learning rate of `{group['name']}`"] = f"{float(group['base_lr']):g}"
    rows["learning rate schedule"] = getattr(config.lr_schedule, "kind", "")
    rows["optimizer"] = getattr(config.optimizer, "kind", "")
    if len(run.adapters):
        rows["rank"] = getattr(config.adapter, "rank", "")
        rows["alpha"] = getattr(config.adapter, "alpha", "")
    rows["precision"] = config.precision
    rows["seed"] = run.seed
    written = [f"| {name} | {value} |" for name, value in rows.items() if value not in ("", None)]
    return "\n".join(["| setting | value |", "| --- | --- |", *written])

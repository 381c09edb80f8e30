"""A first config from few answers: what the LoRA is of, how many images there are, how much memory the card has.

The numbers are those of `recipes/`; they are a start, and every one can be changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorasmith.core.config import inline

TINY = "tiny-sd"
FEWEST_TO_HOLD_OUT = 10
"""With fewer images none is held out for the validation loss."""
PROMPTS = {
    "character": ["a photo of {}", "a photo of {}, on a beach", "a painting of {}", "a photo of a woman"],
    "object": ["a photo of {}", "a photo of {}, on a table", "a drawing of {}", "a photo of a chair"],
    "style": ["a house on a hill, {}", "a portrait of a man, {}", "a bowl of fruit, {}", "a photo of a street"],
}
"""The last one is without the trigger: it should stay as the base draws it."""
RANKS = {"character": 16, "object": 8, "style": 32}
VIEWS = {"character": 100, "object": 100, "style": 60}
TEXT_LR = {"character": 5e-5, "object": 5e-5, "style": 0.0}
"""A style is not bound to a word as firmly as a character."""


@dataclass(frozen=True)
class Answers:
    """What a recipe depends on."""

    base: str
    images: str
    """The folder of images, as the config names it."""
    output: str
    trigger: str = ""
    subject: str = "character"
    """`character`, `object` or `style`."""
    memory: float = 12.0
    """GiB of the card."""
    count: int = 0
    """Number of images."""
    resolution: int = 512


def recipe(answers: Answers) -> str:
    """The config as text, with the reasons."""
    subject = answers.subject if answers.subject in RANKS else "character"
    tiny = answers.base == TINY
    little = answers.memory < 8 and not tiny
    lines = [
        f"base = {inline(answers.base)}",
        f"output = {inline(answers.output)}",
        f"trigger = {inline([answers.trigger] if answers.trigger else [])}",
    ]
    lines += ["steps = 200"] if tiny else [f"views_per_image = {VIEWS[subject]}      # how often each image is seen"]
    if little:
        lines += [
            "accumulation = 4           # the gradient of four images, the memory of one",
            "gradient_checkpointing = true   # less memory for about a third more time",
        ]
    lines += data_lines(answers, subject)
    lines += ["", "[adapter]", 'kind = "lora"', f"rank = {8 if little else RANKS[subject]}"]
    lines += ["", "[optimizer]", 'kind = "adamw"', *rate_lines(answers, subject, little)]
    lines += ["", "[lr_schedule]", 'kind = "cosine"', "warmup = 0.05"]
    lines += ["", "[objective]", 'weightings = [{ kind = "min_snr", gamma = 5.0 }]', *output_lines(answers, subject)]
    return "\n".join(lines) + "\n"


def output_lines(answers: Answers, subject: str) -> list[str]:
    """The tables `preview` and `export`."""
    name = answers.trigger or "it"
    prompts = [f"  {inline(prompt.format(name))}," for prompt in PROMPTS[subject]]
    if answers.base == TINY:
        often, guidance, dtype = "every_steps = 50", ["cfg = 5.0"], []
    else:
        often, guidance, dtype = "every_epochs = 10", [], ['dtype = "fp16"']
    lines = ["", "[preview]", often, *guidance, "prompts = [", *prompts, "]"]
    return [*lines, "", "[export]", *dtype, often, "keep = 5"]


def data_lines(answers: Answers, subject: str) -> list[str]:
    """The table `data`."""
    tiny = answers.base == TINY
    lines = ["", "[data]", f"images = {inline(answers.images)}"]
    lines.append(f"resolution = {128 if tiny else answers.resolution}")
    lines.append(f"batch_size = {batch_size(answers)}")
    if subject == "object":
        lines.append('transforms = ["flip"]      # not for what has a left and a right side, or text on it')
    if answers.count >= FEWEST_TO_HOLD_OUT and not tiny:
        lines.append("validation.split = 0.1     # held out, to see when the LoRA only repeats its images")
    return lines


def batch_size(answers: Answers) -> int:
    """Images in a step, by the memory of the card."""
    if answers.base == TINY:
        return 8
    if answers.memory < 10:
        return 1
    return 2 if answers.memory < 20 else 4


def rate_lines(answers: Answers, subject: str, little: bool) -> list[str]:
    """Learning rates. Where memory is short, only the UNet is trained, so that encoded captions can be cached."""
    if answers.base == TINY:
        return ["lr = 1.2e-3"]
    rates: list[tuple[str, Any]] = [("lr", 2e-4 if little else 1e-4)]
    if TEXT_LR[subject] and not little:
        rates.append(("text_lr", TEXT_LR[subject]))
    return [f"{key} = {value:g}" for key, value in rates]

"""`lorasmith new`: a first config from five answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overwrite
from lorasmith.core.embedded_bases import DEFAULT_BASE, EMBEDDED_BASES
from lorasmith.core.errors import LorasmithError
from lorasmith.core.shell_words import shell_word

if TYPE_CHECKING:
    from lorasmith.api.first_config import NewConfig

WHAT = ("character", "object", "style", "concept")
"""The subjects of `api.recipe`, which is imported only when the command runs."""
USUAL_MEMORY = 12.0
MEMORY_QUESTION = "Memory of the GPU in GiB (Enter if there is none)"
USUAL_SUBJECT = "character"
HUB_IDS = (
    "Stable Diffusion 1.5 is stable-diffusion-v1-5/stable-diffusion-v1-5 there, and SDXL is "
    "stabilityai/stable-diffusion-xl-base-1.0."
)


def new_command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="The new file. Default: named after the trigger.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help=f"The base model: {', '.join(EMBEDDED_BASES)}, a file, a folder, or a hub id."),
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the training images.")] = None,
    trigger: Annotated[
        str | None, typer.Option("--trigger", help='The word that stands for it; "" for a LoRA without one.')
    ] = None,
    subject: Annotated[str | None, typer.Option("--is", metavar="WHAT", help=f"What it is: {', '.join(WHAT)}.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", metavar="GIB", help="Memory of the GPU.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of the run. Default: in runs, named as the config."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a first config: base, images, trigger, what it is, and the memory of the GPU.

    Asks for what is not given as an option. Where there is no terminal, base, images and trigger must be given; it is
    then a character, and 12 GiB. The config says why each number is there, and how much memory a step will need.
    """
    given = Given(base, images, trigger, subject, memory)
    answers = given.completed() if sys.stdin.isatty() and not json else given.assumed()
    write(answers, config, output, overwrite, json)


@dataclass(frozen=True)
class Given:
    """The answers that are there; None: not given."""

    base: str | None = None
    images: Path | None = None
    trigger: str | None = None
    subject: str | None = None
    memory: float | None = None

    def completed(self) -> Given:
        """All of them: the person at the terminal answers for the others."""
        return Given(
            self.base
            or ask(f"Base model ({', '.join(EMBEDDED_BASES)}, file, folder or hub id)", DEFAULT_BASE, base_of),
            self.images or ask("Folder of the images", None, folder_of),
            ask("Trigger word (Enter for none)", "") if self.trigger is None else self.trigger,
            self.subject or ask(f"What is it ({', '.join(WHAT)})", USUAL_SUBJECT, subject_of),
            self.memory if self.memory is not None else ask(MEMORY_QUESTION, f"{card_memory():g}", memory_of),
        )

    def assumed(self) -> Given:
        """All of them, as far as they can be assumed. Raises LorasmithError with all that cannot."""
        needed = {"--base": self.base, "--images": self.images, "--trigger": self.trigger}
        missing = " and ".join(option for option, value in needed.items() if value is None)
        if missing:
            raise LorasmithError(f"{missing} must be given, because there is no terminal to ask in")
        memory = USUAL_MEMORY if self.memory is None else self.memory
        return replace(self, subject=self.subject or USUAL_SUBJECT, memory=memory)


def write(answers: Given, config: Path | None, output: Path | None, overwrite: bool, json: bool) -> None:
    """Make the config, write it, and say what was found and what comes next."""
    from lorasmith import api
    from lorasmith.core.store import write_text

    assert answers.base is not None
    assert answers.images is not None
    name = re.sub(r"[^\w.-]+", "-", answers.trigger or answers.images.resolve().name).strip("-.") or "lora"
    config = config or Path(f"{name}.toml")
    if config.exists() and not overwrite:
        raise LorasmithError(f"{config}: exists already; name another file, or give --overwrite")
    folder = output or Path("runs") / config.stem
    subject, memory = answers.subject or USUAL_SUBJECT, USUAL_MEMORY if answers.memory is None else answers.memory
    made = api.new_config(answers.base, answers.images, folder, answers.trigger or "", subject, memory)
    write_text(config, made.text)
    if json:
        forecast = None if made.forecast is None else vars(made.forecast)
        console.print_json({"config": config, "notes": made.notes, "memory": forecast, "toml": made.text})
    else:
        print_result(config, made)


def print_result(config: Path, made: NewConfig) -> None:
    """Say what was found and what comes next."""
    for note in made.notes:
        console.say(note)
    if made.forecast is not None:
        console.say(f"memory: {made.forecast.text()}")
    console.show(f"{config} written. See what a run would do, then start it:")
    console.show(f"    lorasmith check {shell_word(config)}")
    console.show(f"    lorasmith train {shell_word(config)}")


def ask(question: str, default: str | None, read: Callable[[str], Any] = str) -> Any:
    """The answer of the person at the terminal; the question is repeated while `read` refuses it. `read` also gets the
    default, where the answer is empty. Raises LorasmithError if the input ends."""
    try:
        return typer.prompt(question, default=default, value_proc=read, err=True)
    except typer.Abort:
        raise LorasmithError("stopped; nothing is written") from None


def base_of(text: str) -> str:
    """A base model that is on this machine, or may be on the hub."""
    from lorasmith.families.model_paths import local_base

    name = text.strip()
    try:
        local_base(name)
    except LorasmithError as error:
        raise typer.BadParameter(f"{error} {HUB_IDS}") from None
    return name


def folder_of(text: str) -> Path:
    """A folder with images."""
    from lorasmith.api.first_config import count_images

    folder = Path(text.strip()).expanduser()
    try:
        count_images(folder)
    except LorasmithError as error:
        raise typer.BadParameter(str(error)) from None
    return folder


def subject_of(text: str) -> str:
    """One of the subjects."""
    word = text.strip().lower()
    if word not in WHAT:
        raise typer.BadParameter(f"answer with one of {', '.join(WHAT)}")
    return word


def memory_of(text: str) -> float:
    """GiB, with or without the unit."""
    try:
        return float(re.sub(r"\s*(gib|gb|g)$", "", text.strip().lower()))
    except ValueError:
        raise typer.BadParameter("answer with a number, such as 12") from None


def card_memory() -> float:
    """GiB of the first GPU, or the usual amount if there is none."""
    import torch

    if not torch.cuda.is_available():
        return USUAL_MEMORY
    return round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)

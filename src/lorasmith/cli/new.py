"""`lorasmith new`: a first config from five answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.api.recipe import SUBJECTS, TINY
from lorasmith.cli import console
from lorasmith.cli.options import Json, Overwrite
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text

USUAL_MEMORY = 12.0


def new_command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="The new file. Default: named after the trigger.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="The base model: a file, a folder, or a hub id.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the training images.")] = None,
    trigger: Annotated[
        str | None, typer.Option("--trigger", help='The word that stands for it; "" for a LoRA without one.')
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--is", metavar="WHAT", help=f"What it is: {', '.join(SUBJECTS)}.")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", metavar="GIB", help="Memory of the GPU.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of the run. Default: in runs, named as the config."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a first config: base, images, trigger, what it is, and the memory of the GPU.

    Asks for what is not given as an option. Where nobody can be asked, base, images and trigger must be given; it is
    then a character, and 12 GiB. The config says why each number is there, and how much memory a step will need.
    """
    from lorasmith import api

    if sys.stdin.isatty() and not json:
        base = base or ask("Base model (file, folder or hub id)", TINY)
        images = images or Path(ask("Folder of the images", None))
        trigger = ask("Trigger word (Enter for none)", "") if trigger is None else trigger
        subject = subject or ask(f"What is it ({', '.join(SUBJECTS)})", "character")
        memory = memory or ask("Memory of the GPU in GiB", card_memory(), float)
    if base is None or images is None or trigger is None:
        given = {"--base": base, "--images": images, "--trigger": trigger}
        missing = " and ".join(option for option, value in given.items() if value is None)
        raise LorasmithError(f"{missing} must be given, because there is no terminal to ask in")
    name = re.sub(r"[^\w.-]+", "-", trigger or images.resolve().name).strip("-.") or "lora"
    config = config or Path(f"{name}.toml")
    if config.exists() and not overwrite:
        raise LorasmithError(f"{config}: exists already; name another file, or give --overwrite")
    made = api.new_config(
        base, images, output or Path("runs") / name, trigger, subject or "character", memory or USUAL_MEMORY
    )
    write_text(config, made.text)
    if json:
        forecast = None if made.forecast is None else vars(made.forecast)
        console.print_json({"config": config, "notes": made.notes, "memory": forecast, "toml": made.text})
        return
    for note in made.notes:
        console.say(note)
    if made.forecast is not None:
        console.say(f"memory: {made.forecast.text()}")
    console.show(f"{config} written. Look at what a run would do, then start it:")
    console.show(f"    lorasmith check {config}")
    console.show(f"    lorasmith train {config}")


def ask(question: str, default: Any, kind: Callable[[str], Any] = str) -> Any:
    """The answer of the person at the terminal. Raises LorasmithError if the input ends."""
    try:
        return typer.prompt(question, default=default, type=kind, err=True)
    except typer.Abort:
        raise LorasmithError("stopped; nothing is written") from None


def card_memory() -> float:
    """GiB of the first GPU, or the usual amount if there is none."""
    import torch

    if not torch.cuda.is_available():
        return USUAL_MEMORY
    return round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)

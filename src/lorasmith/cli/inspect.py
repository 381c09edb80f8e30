"""`lorasmith inspect`: what is in a LoRA file and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json


def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, `.safetensors`.")], json: Json = False
) -> None:
    """Show what a LoRA file holds: kind, rank, layers, trigger words, and the settings it was made with."""
    from lorasmith import api

    found = api.inspect(file)
    if json:
        console.answer(found)
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """The answer of `inspect` for a person."""
    raise NotImplementedError

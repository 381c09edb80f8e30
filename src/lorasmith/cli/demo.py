"""`lorasmith demo`: from nothing to a LoRA that visibly works, with what the package carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.train import Json


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the run and the picture.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Train a LoRA of a small character in about a minute, and draw a before/after picture. Needs no network."""
    raise NotImplementedError

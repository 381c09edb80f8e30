"""`lorasmith merge`: LoRAs into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.convert import Overwrite, tell
from lorasmith.cli.train import Json

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE[:STRENGTH]", help="LoRAs, each with its strength if not 1: a.safetensors:0.8"),
]


def merge_command(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A diffusers folder or an original .safetensors.")],
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder or file, in the base's layout.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a base model with LoRAs in it.

    Layout, names and dtypes stay the base's. Tensors are read and written one at a time.
    """
    from lorasmith import api

    tell(api.merge(base, files, output, overwrite=overwrite), json)

"""`lorasmith combine`: several LoRAs as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.convert import Base, Dtype, Overwrite, tell
from lorasmith.cli.merge import Files
from lorasmith.cli.train import Json


def combine_command(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new file.")],
    rank: Annotated[
        int | None, typer.Option("--rank", help="Give the best LoRA of this rank, not the exact sum.")
    ] = None,
    base: Base = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Add LoRAs up, each at its strength, into one file.

    The sum is exact, with the ranks of all files together; --rank gives the best LoRA of a rank and says the error.
    """
    from lorasmith import api

    tell(api.combine(files, output, rank=rank, base=base, dtype=dtype, overwrite=overwrite), json)

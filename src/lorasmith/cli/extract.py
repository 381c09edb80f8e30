"""`lorasmith extract`: a LoRA from a fine-tuned checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.file_report import print_report
from lorasmith.cli.options import BasePart, Dtype, Json, Overwrite


def extract_command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The fine-tuned model: a folder or one file.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that it was trained from.")],
    rank: Annotated[
        int | None, typer.Option("--rank", help="Rank of the LoRA; with --energy, the highest rank.")
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Fraction of each layer's squared change to keep, 0..1.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new file. Default: TUNED-lora.safetensors in the current folder."),
    ] = None,
    base_part: BasePart = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the difference of two checkpoints as a LoRA.

    The LoRA covers linear layers and convolutions of the UNet and the text encoders; other differences are reported.
    It is written in fp16 unless --dtype is given.
    """
    from lorasmith import api

    report = api.extract(
        tuned,
        base,
        rank=rank,
        energy=energy,
        base_parts=base_part or (),
        output=output or Path(f"{Path(tuned).stem}-lora.safetensors"),
        dtype=dtype,
        overwrite=overwrite,
        progress=console.make_progress(),
    )
    print_report(report, json)

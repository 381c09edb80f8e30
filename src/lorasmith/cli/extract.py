"""`lorasmith extract`: a LoRA out of a fine-tuned checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.convert import Dtype, Out, Overwrite, tell
from lorasmith.cli.train import Json


def extract_command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The fine-tuned model: a folder or one file.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that it was made from.")],
    rank: Annotated[int | None, typer.Option("--rank", help="Of the LoRA; with --energy, at most this.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Share of each layer's squared change to keep, 0..1.")
    ] = None,
    output: Out = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a LoRA of the difference of two checkpoints.

    Linears and convolutions of UNet and text encoders; what differs besides is mentioned. Written in fp16 unless
    --dtype says otherwise.
    """
    from lorasmith import api

    output = output or Path(f"{Path(tuned).stem}-lora.safetensors")
    saving = {"output": output, "dtype": dtype, "overwrite": overwrite}
    tell(api.extract(tuned, base, rank=rank, energy=energy, progress=console.progress_for(), **saving), json)  # type: ignore[arg-type]

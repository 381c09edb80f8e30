"""`lorasmith resize`: a LoRA with fewer ranks."""

from __future__ import annotations

from typing import Annotated

import typer

from lorasmith.cli.convert import Base, Dtype, File, Out, Overwrite, tell
from lorasmith.cli.train import Json


def resize_command(
    file: File,
    rank: Annotated[int | None, typer.Option("--rank", help="The new rank; with a share, the most.")] = None,
    energy: Annotated[float | None, typer.Option("--energy", help="Share of the squared change to keep, 0..1.")] = None,
    frobenius: Annotated[
        float | None, typer.Option("--frobenius", help="Share of the norm of the change to keep, 0..1.")
    ] = None,
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Each layer gets its own rank (with --rank: that many on average)."),
    ] = False,
    output: Out = None,
    base: Base = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a LoRA with fewer ranks, the best there is of them.

    LoHa, LoKr and Tucker LoRA become plain LoRA. The strength of each layer, alpha / rank, stays.
    """
    from lorasmith import api

    report = api.resize(
        file,
        rank=rank,
        energy=energy,
        frobenius=frobenius,
        per_layer=per_layer,
        base=base,
        output=output,
        dtype=dtype,
        overwrite=overwrite,
    )
    tell(report, json)

"""`lorasmith resize`: a LoRA with lower ranks."""

from __future__ import annotations

from typing import Annotated

import typer

from lorasmith.cli.file_report import print_report
from lorasmith.cli.options import BaseOfLora, BasePart, Dtype, Json, LoraFile, NewFile, Overwrite


def resize_command(
    file: LoraFile,
    rank: Annotated[
        int | None, typer.Option("--rank", help="The new rank; with --energy or --frobenius, the highest rank.")
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Fraction of the squared change to keep, 0..1.")
    ] = None,
    frobenius: Annotated[
        float | None, typer.Option("--frobenius", help="Fraction of the norm of the change to keep, 0..1.")
    ] = None,
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Choose the rank of each layer separately (with --rank: their mean)."),
    ] = False,
    output: NewFile = None,
    base: BaseOfLora = None,
    base_part: BasePart = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the best approximation of a LoRA with lower ranks.

    LoHa, LoKr and Tucker LoRA become plain LoRA. The scale of each layer, alpha / rank, stays the same.
    """
    from lorasmith import api

    report = api.resize(
        file,
        rank=rank,
        energy=energy,
        frobenius=frobenius,
        per_layer=per_layer,
        base=base,
        base_parts=base_part or (),
        output=output,
        dtype=dtype,
        overwrite=overwrite,
    )
    print_report(report, json)

"""`lorasmith combine`: add several LoRAs into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.file_report import print_report
from lorasmith.cli.options import BaseOfLora, BasePart, Dtype, Json, Overwrite, WeightedLoras


def combine_command(
    files: WeightedLoras,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new file.")],
    rank: Annotated[
        int | None, typer.Option("--rank", help="Approximate the sum by a LoRA of this rank. Default: the exact sum.")
    ] = None,
    base: BaseOfLora = None,
    base_part: BasePart = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Add LoRAs into one file, each with its strength.

    The sum is exact; its rank is the sum of the ranks of all files. With --rank it is approximated, and the error is
    printed.
    """
    from lorasmith import api

    report = api.combine(
        files, output, base=base, base_parts=base_part or (), rank=rank, dtype=dtype, overwrite=overwrite
    )
    print_report(report, json)

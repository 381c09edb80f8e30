"""`lorasmith merge`: write LoRAs into a base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.file_report import print_report
from lorasmith.cli.options import BasePart, Json, Overwrite, Plugins, WeightedLoras


def merge_command(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A diffusers folder or a .safetensors file in the original layout.")
    ],
    files: WeightedLoras,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The new folder or file, in the layout of the base model.")
    ],
    base_part: BasePart = None,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Write a base model with LoRAs merged into its weights.

    Layout, names and dtypes are those of the base model. Tensors are read and written one at a time.
    """
    from lorasmith import api

    report = api.merge(base, files, output, base_parts=base_part or (), overwrite=overwrite)
    print_report(report, json)

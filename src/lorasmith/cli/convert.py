"""`lorasmith convert`: write a LoRA in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli.file_report import print_report
from lorasmith.cli.options import BaseOfLora, BasePart, Dtype, Json, LoraFile, NewFile, Overwrite, Plugins


def convert_command(
    file: LoraFile,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="kohya|peft|portable|lycoris|diff|bundle|mixofshow",
            help="The format of the new file.",
        ),
    ],
    output: NewFile = None,
    base: BaseOfLora = None,
    base_part: BasePart = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Approximate layers that the format cannot hold exactly by LoRA of this rank."),
    ] = None,
    word: Annotated[
        list[Path] | None,
        typer.Option(
            "--word",
            metavar="FILE",
            help="An embedding file to put into a bundle, besides the LoRA's own new tokens; repeatable.",
        ),
    ] = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Write a LoRA in another format.

    portable: plain LoRA, which A1111, Forge, ComfyUI, InvokeAI and diffusers all read with the same result. kohya:
    every kind of adapter, with the tensor names of most trainers. lycoris: as kohya, but nothing is rewritten. peft:
    the format of diffusers. diff: full weight differences. bundle: kohya with the new tokens inside, for A1111 only.
    mixofshow: a .pth file with new tokens for each layer, for Mix-of-Show's own code.
    """
    from lorasmith import api

    report = api.convert(
        file,
        to,
        base=base,
        base_parts=base_part or (),
        rank=rank,
        words=word or (),
        output=output,
        dtype=dtype,
        overwrite=overwrite,
    )
    print_report(report, json)

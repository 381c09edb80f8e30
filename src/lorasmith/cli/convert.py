"""`lorasmith convert`: a LoRA in another format. And how all commands on files say what they made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json

if TYPE_CHECKING:
    from lorasmith.files.lora import Report

File = Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, `.safetensors`, of any trainer.")]
Out = Annotated[
    Path | None, typer.Option("--output", "-o", help="The new file. Default: beside the old one, with an ending.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: where the family cannot be told, or weights are needed.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="fp32|fp16|bf16", help="Of the new file. Default: as the old one.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


def convert_command(
    file: File,
    to: Annotated[
        str, typer.Option("--to", metavar="kohya|peft|portable|lycoris|diff|bundle", help="The format of the new file.")
    ],
    output: Out = None,
    base: Base = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="What has no exact form becomes the best LoRA of this rank.")
    ] = None,
    word: Annotated[
        list[Path] | None,
        typer.Option(
            "--word", metavar="FILE", help="An embedding that a bundle is to carry, beside the LoRA's own words."
        ),
    ] = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a LoRA in another format.

    portable: plain LoRA that A1111, Forge, ComfyUI, InvokeAI and diffusers all read alike. kohya: every kind, in the
    words of most trainers. lycoris: the same with nothing rewritten. peft: diffusers' own. diff: full differences.
    bundle: kohya with its new words inside, for A1111 alone.
    """
    from lorasmith import api

    saving = {"output": output, "dtype": dtype, "overwrite": overwrite}
    report = api.convert(file, to, base=base, rank=rank, words=word or (), **saving)  # type: ignore[arg-type]
    tell(report, json)


def tell(report: Report, json: bool) -> None:
    """What was made: to a person on stderr, to a machine on stdout."""
    said = report.plain()
    lines = [f"written: {report.file} ({said['bytes'] / 1e6:.2f} MB, {report.layers} layers)"]
    if report.ranks:
        ranks = sorted(report.ranks)
        lines.append(f"rank:    {ranks[0]}" if len(ranks) == 1 else f"ranks:   {ranks[0]} to {ranks[-1]}")
    if report.error is not None:
        worst = f"; worst layer: {report.worst[0]}, {report.worst[1]:.3g}" if report.worst and report.error else ""
        lines.append(f"error:   {report.error:.3g} of the change{worst}")
    lines += [f"note:    {note}" for note in report.notes]
    console.say("\n".join(lines))
    if json:
        console.answer(said)

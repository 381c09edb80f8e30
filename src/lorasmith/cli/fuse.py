"""`lorasmith fuse`: several concepts in one LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.convert import Overwrite
from lorasmith.cli.train import Json

if TYPE_CHECKING:
    from lorasmith.fusion import FuseReport


def fuse_command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:STRENGTH][=NAME]...",
            help="LoRAs, each with what prompts call it: garp.safetensors:0.9=garp. Or one JSON list of concepts.",
        ),
    ],
    base: Annotated[str, typer.Option("--base", help="The base model that they were trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new LoRA.")] = Path("fused.safetensors"),
    method: Annotated[
        str, typer.Option("--method", metavar="gradient|weights|sum", help="How. The report compares all three.")
    ] = "gradient",
    rank: Annotated[
        int | None, typer.Option("--rank", help="The best LoRA of this rank, not the exact result.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="In place of 'a photo of {}' and '{}'; {} is the name.")
    ] = None,
    preserve: Annotated[
        list[str] | None, typer.Option("--preserve", help="A prompt on which the base is to stay as it is.")
    ] = None,
    ridge: Annotated[float, typer.Option("--ridge", min=0, help="Larger: nearer to the base, less exact.")] = 1e-2,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of each picture that gathers inputs.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures for each prompt.")] = 1,
    size: Annotated[int | None, typer.Option("--size", help="Of these pictures. Default: the base's own.")] = None,
    device: Annotated[str, typer.Option("--device")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fuse LoRAs of different things into one that draws each as its own did.

    Where adding LoRAs up blurs them into each other, this finds for each layer the change that does best what each LoRA
    does to the inputs that its own prompts bring (gradient fusion of Mix-of-Show, in closed form). The result is an
    ordinary LoRA, with the ranks of all together unless --rank is given; new words are written beside it.
    """
    from lorasmith import api

    report = api.fuse(
        files,
        base,
        output,
        method=method,
        rank=rank,
        prompts=prompt,
        preserve=preserve,
        ridge=ridge,
        steps=steps,
        seeds=seeds,
        size=size,
        device=device,
        overwrite=overwrite,
        progress=console.progress_for(),
    )
    tell(report, json)


def tell(report: FuseReport, json: bool) -> None:
    """What was made, and what each method misses of each concept."""
    ranks = sorted(report.ranks)
    lines = [f"written: {report.file} ({report.layers} layers, ranks {ranks[0]} to {ranks[-1]})"]
    if report.exact is not None:
        lines.append(f"words:   {report.exact}, {', '.join(str(path) for path in report.embeddings)}")
    if report.error is not None:
        lines.append(f"error:   {report.error:.3g} of the change, by cutting it to the rank")
    lines.append(f"took:    {report.seconds:.0f} s, {report.peak_gib:.1f} GiB of memory")
    lines.append("missed of what each LoRA does to its own inputs (0 nothing, 1 all of it):")
    width = max(len(name) for name in ("concept", *report.concepts))
    stages = list(report.missed["gradient"])
    lines.append(f"  {'':{width}}  " + "  ".join(f"{stage:>24}" for stage in stages))
    lines.append(f"  {'':{width}}  " + "  ".join("gradient weights     sum" for _ in stages))
    for index, name in enumerate(report.concepts):
        cells = ("  ".join(f"{report.missed[m][stage][index]:>7.3f}" for m in report.missed) for stage in stages)
        lines.append(f"  {name:{width}}  " + "   ".join(cells))
    console.say("\n".join(lines))
    if json:
        console.answer(report.plain())

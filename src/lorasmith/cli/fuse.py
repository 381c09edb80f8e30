"""`lorasmith fuse`: LoRAs of several concepts as one LoRA."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lorasmith.cli import console
from lorasmith.cli.options import BasePart, Device, Json, Overwrite

if TYPE_CHECKING:
    from lorasmith.fusion import FuseReport
    from lorasmith.fusion.options import FuseOptions

Missed = dict[str, dict[str, list[float]]]
"""By method and part of the model, for each concept the share that is missed."""


def fuse_command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:STRENGTH][=NAME]...",
            help="LoRAs, each with its name in prompts: garp.safetensors:0.9=garp. Or one JSON list of concepts.",
        ),
    ],
    base: Annotated[str, typer.Option("--base", help="The base model that the LoRAs were trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new LoRA.")] = Path("fused.safetensors"),
    method: Annotated[
        str,
        typer.Option("--method", metavar="gradient|weights|sum", help="The method. The report compares all three."),
    ] = "gradient",
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Approximate the result by a LoRA of this rank. Default: the exact result."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="Prompts in place of 'a photo of {}' and '{}'; {} stands for the name; repeatable."
        ),
    ] = None,
    preserve: Annotated[
        list[str] | None,
        typer.Option("--preserve", help="A prompt for which the base model should stay unchanged; repeatable."),
    ] = None,
    ridge: Annotated[
        str,
        typer.Option(
            "--ridge",
            metavar="NUMBER|auto",
            help="Regularisation: larger values stay nearer to the base model. auto: for each part of the model the "
            "value with the smallest error on prompts that are not fitted to.",
        ),
    ] = "0.01",
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Sampling steps of the pictures that collect layer inputs.")
    ] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of these pictures for each prompt.")] = 1,
    size: Annotated[
        int | None, typer.Option("--size", help="Size of these pictures in pixels. Default: that of the base model.")
    ] = None,
    base_part: BasePart = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much memory it will take and in how many passes.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fuse LoRAs of different concepts into one LoRA that shows each of them as its own LoRA did.

    A sum of LoRAs mixes their concepts. This command finds for each layer the change that best reproduces the effect of
    each LoRA on the inputs that its own prompts cause (gradient fusion of Mix-of-Show, in closed form). The result is
    an ordinary LoRA. Its rank is the sum of all ranks unless --rank is given. New tokens are written next to it.
    """
    from lorasmith import api

    settings: FuseOptions = {
        "method": method,
        "rank": rank,
        "prompts": prompt,
        "preserve": preserve,
        "ridge": read_ridge(ridge),
        "steps": steps,
        "seeds": seeds,
        "size": size,
        "base_parts": base_part or (),
        "device": device,
    }
    if dry_run:
        print_plan(files, base, settings, json=json)
        return
    report = api.fuse(files, base, output, overwrite=overwrite, progress=console.make_progress(), **settings)
    print_report(report)
    if json:
        console.print_json(report.plain())


def print_plan(files: list[str], base: str, settings: FuseOptions, *, json: bool) -> None:
    """Print what a fusion will take, on stderr; with `json` on stdout, too."""
    from lorasmith.fusion.options import plan

    found = plan(files, base, settings)
    console.say("\n".join(found.lines()))
    if json:
        console.print_json(asdict(found))


def read_ridge(text: str) -> float | Literal["auto"]:
    """A number from 0 on, or `auto`. Raises typer.BadParameter for anything else."""
    if text == "auto":
        return "auto"
    try:
        ridge = float(text)
    except ValueError:
        ridge = math.nan
    if not 0 <= ridge < math.inf:
        raise typer.BadParameter(f'--ridge is "{text}"; give a number from 0 on, such as 0.01, or auto')
    return ridge


def print_report(report: FuseReport) -> None:
    """Print the new files and the error of each method for each concept, on stderr."""
    ranks = sorted(report.ranks)
    lines = [f"written: {report.file} ({report.layers} layers, ranks {ranks[0]} to {ranks[-1]})"]
    if report.exact is not None:
        files = ", ".join(str(path) for path in report.embeddings)
        lines.append(f"new tokens: {report.exact}, {files}")
    if report.error is not None:
        lines.append(f"error:   {report.error:.3g} of the change, from the lower rank")
    lines.append(f"took:    {report.seconds:.0f} s, {report.peak_gib:.1f} GiB of memory")
    lines.append("ridge:   " + ", ".join(f"{ridge:g} ({stage})" for stage, ridge in report.ridge.items()))
    lines += error_table(
        "error of each LoRA's effect on its own inputs (0: exact, 1: no effect left):", report.missed, report
    )
    lines += error_table("the same on prompts that were not fitted to:", report.held_out, report)
    console.say("\n".join(lines))


def error_table(title: str, missed: Missed, report: FuseReport) -> list[str]:
    """A row for each concept, and columns for the three methods in each part of the model."""
    if not missed:
        return []
    stages = list(missed["gradient"])
    width = max(len(name) for name in ("concept", *report.concepts))
    lines = [title]
    lines.append(f"  {'':{width}}  " + "  ".join(f"{stage:>24}" for stage in stages))
    lines.append(f"  {'':{width}}  " + "  ".join("gradient weights     sum" for _ in stages))
    for index, name in enumerate(report.concepts):
        cells: list[str] = []
        for stage in stages:
            errors = [f"{by_stage[stage][index]:>7.3f}" for by_stage in missed.values()]
            cells.append("  ".join(errors))
        lines.append(f"  {name:{width}}  " + "   ".join(cells))
    return lines

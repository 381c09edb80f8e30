"""`lorasmith bench`: time and memory of training steps on this machine, beside other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Device, Json


def bench_command(
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="sd1, sd2, sdxl, sd35-medium, sd35-large, flux (full size with random weights, made once), tiny-sd, "
            "tiny-flow, or a base model. auto: sd1 on a GPU, else tiny-sd.",
        ),
    ] = "auto",
    resolution: Annotated[int, typer.Option("--resolution", help="Side of the images. 0: that of the base.")] = 0,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes.", metavar="N,N,...")] = "1,4",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32 or bf16. auto: bf16 for full-size bases on a GPU.")
    ] = "auto",
    adapter: Annotated[str, typer.Option("--adapter", help="Kinds of adapters.", metavar="KIND,KIND,...")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapters that have one.")] = 16,
    layers: Annotated[str, typer.Option("--layers", help="On which layers they are.")] = "attention",
    memory: Annotated[str, typer.Option("--memory", help="Memory levels of Lorasmith.", metavar="N,N,...")] = "0",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="NAME,NAME,...",
            help="Others that train the same LoRA: diffusers (PEFT as its scripts use it), peft (one dtype, no "
            "autocast), peft-compiled (the same with inductor and one CUDA graph).",
        ),
    ] = "",
    device: Device = "auto",
    graph: Annotated[bool, typer.Option("--graph/--no-graph", help="Lorasmith's steps as CUDA graphs.")] = True,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each contender in one turn.")] = 10,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Turns of each contender.")] = 5,
    together: Annotated[
        bool, typer.Option("--start-together", help="Start all at once: sooner, but start-up times then mean little.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder for random bases, images and caches. Default: the cache.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Also write the figures here.")] = None,
    json: Json = False,
) -> None:
    """Measure time and memory of training steps on this machine.

    Each contender has a process of its own. They make a few steps at a time in turns, and medians are compared.
    Everything is cached, and a step is whole: noise, forward and backward pass, clipping, optimizer. Only ratios within
    one run are valid for other machines.
    """
    from lorasmith import api
    from lorasmith.core.store import write_text
    from lorasmith.training.bench.table import as_json, markdown

    result = api.bench(
        base=base,
        resolution=resolution,
        batches=numbers("--batch", batch, least=1),
        precision=precision,
        adapters=tuple(words(adapter)),
        rank=rank,
        layers=layers,
        memory=numbers("--memory", memory, least=0),
        against=tuple(words(against)),
        device=device,
        cuda_graph=graph,
        steps=steps,
        turns=turns,
        start_together=together,
        work=work,
        progress=console.make_progress(),
    )
    if out is not None:
        write_text(out, as_json(result))
    if json:
        console.print_json(result.plain())
    else:
        console.show(markdown(result))
    if any(row.error for row in result.rows):
        raise typer.Exit(1)


def words(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Whole numbers from `least` on. Raises typer.BadParameter for anything else."""
    found = words(text)
    if not found or any(not part.isdecimal() or int(part) < least for part in found):
        raise typer.BadParameter(
            f'"{text}" is not a list of whole numbers from {least} on, such as {least},4', param_hint=option
        )
    return tuple(int(part) for part in found)

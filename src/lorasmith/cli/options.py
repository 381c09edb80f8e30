"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the config: adapter.rank=8 steps=500"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
LoraFile = Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA of any trainer, `.safetensors`.")]


def _import_plugins(modules: list[str] | None) -> list[str]:
    """Import what `--plugin` names, when the option is read, so that a command need not do anything with the value."""
    if modules:
        from lorasmith.core.registry import load_plugins

        load_plugins(modules)
    return modules or []


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="A Python module that adds kinds, such as that of a LoRA's adapter; repeatable.",
        callback=_import_plugins,
    ),
]
WeightedLoras = Annotated[
    list[str],
    typer.Argument(metavar="FILE[:STRENGTH]", help="LoRAs, each with its strength if it is not 1: a.safetensors:0.8"),
]
NewFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The new file. Default: next to the input file, with a suffix in its name."),
]
BaseOfLora = Annotated[
    str | None,
    typer.Option(
        "--base", help="The base model; needed if the file does not tell its family, or if its weights are used."
    ),
]
BasePart = Annotated[
    list[str] | None,
    typer.Option(
        "--base-part",
        metavar="FILE",
        help="A file or folder with parts that a single file of Flux or SD3 lacks (text encoders, VAE); repeatable.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="fp32|fp16|bf16", help="Dtype of the new file. Default: that of the input file."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]

On = Annotated[
    str,
    typer.Option(
        "--on", metavar="local|ray|slurm", help="Where the runs are: this machine, or the nodes of a cluster."
    ),
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-run", min=0, max=1, help="On a cluster: 0, 1, or a fraction where runs share a GPU (Ray)."
    ),
]
CpusPerRun = Annotated[int | None, typer.Option("--cpus-per-run", min=1, help="On a cluster: CPU cores of each run.")]
OnOption = Annotated[
    list[str] | None,
    typer.Option("--on-option", metavar="KEY=VALUE", help="A setting of --on, such as partition=gpu; repeatable."),
]


def split_devices(text: str | None) -> list[str]:
    """The devices of `--device`, which commas separate."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]

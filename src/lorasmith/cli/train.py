"""`lorasmith train`: a config and a folder of images in, a LoRA out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import find_launch

Config = Annotated[str | None, typer.Argument(metavar="CONFIG.toml", help="The run's settings, as TOML or JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace the config's: adapter.rank=8 steps=500"),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]


def train_command(
    config: Config = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; replaces `output`.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Continue the run in this folder, or from this state; no config."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="If the folder holds a run already, move that one aside.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a LoRA.

    The run's folder gets the LoRA, checkpoints to resume from, events.jsonl and report.html. Ctrl-C saves and says how
    to continue.
    """
    config, changes = split(config, overrides)
    if config is None and resume is None:
        raise LorasmithError("name a config (lorasmith train CONFIG.toml), or a run to continue (--resume RUN)")
    if config is not None and resume is not None:
        raise LorasmithError(
            f"--resume takes the settings from {resume}/config.toml, and no other config; leave out {config}"
        )
    from lorasmith import api

    source = None if config is None else Path(config)
    progress = console.progress_for()
    result = api.train(source, overrides=changes, output=output, resume=resume, overwrite=overwrite, progress=progress)
    if not find_launch().first:
        return
    if result.finished:
        console.say(
            f"LoRA:   {result.file}\nreport: {result.report}\nsteps:  {result.steps} in {console.clock(result.seconds)}"
        )
    if json:
        console.answer(asdict(result))
    if not result.finished:
        raise typer.Exit(130)


def split(config: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Tell a config from an override that stands in its place (`train --resume RUN steps=20`)."""
    changes = list(overrides or [])
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *changes]
    return config, changes

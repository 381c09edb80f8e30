"""`lorasmith train`: a config and a folder of images to a LoRA."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overrides
from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import find_launch


def train_command(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG.toml", help="The settings of the run, TOML or JSON, or a recipe's name."),
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; replaces `output` of the config.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="RUN", help="Continue the run in this folder, or from this state, with its own config."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="If the output folder holds a run, rename that folder and start anew.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="With --resume: import the plug-ins and classes that the folder names, and write where it says. Only "
            "for folders that are your own.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Train although there are serious remarks on the data.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a LoRA.

    The output folder gets the LoRA, checkpoints to resume from, events.jsonl and report.html. Ctrl-C saves a checkpoint
    and prints how to continue.
    """
    # `train --resume RUN steps=20` has an override in the position of the config
    config, overrides = separate_config(config, overrides or [])
    if config is None and resume is None:
        raise LorasmithError("give a config (lorasmith train CONFIG.toml), or a run to continue (--resume RUN)")
    if config is not None and resume is not None:
        raise LorasmithError(
            f"--resume takes the settings from {resume}/config.toml, and no other config; leave out {config}"
        )
    from lorasmith import api

    result = api.train(
        None if config is None else Path(config),
        overrides=overrides,
        output=output,
        resume=resume,
        overwrite=overwrite,
        trust=trust,
        accept_remarks=yes,
        progress=console.make_progress(),
    )
    # of the ranks of a distributed run, only the first one prints
    if not find_launch().first:
        return
    if result.finished:
        console.say(f"LoRA:   {result.file}")
        console.say(f"report: {result.report}")
        console.say(f"steps:  {result.steps} in {console.format_duration(result.seconds)}")
    if json:
        console.print_json(asdict(result))
    if not result.finished:
        raise typer.Exit(130)


def separate_config(config: str | None, overrides: list[str]) -> tuple[str | None, list[str]]:
    """Config and overrides, where the first argument may be an override (`train --resume RUN steps=20`)."""
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *overrides]
    return config, list(overrides)

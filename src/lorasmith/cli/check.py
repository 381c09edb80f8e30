"""`lorasmith check`: what a run would do, and what is wrong with it, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json, Overrides


def check_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's settings, as TOML or JSON.")],
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also make two real steps: time a step, peak memory, hours in all.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a config and its images; trains nothing, writes nothing into the output folder."""
    from lorasmith import api

    found = api.check(config, overrides=overrides or (), measure=measure, progress=console.progress_for())
    if json:
        console.answer(found)
    else:
        show(found)
    if found["errors"]:
        raise typer.Exit(1)


def show(found: dict[str, Any]) -> None:
    """The answer of `check` for a person."""
    raise NotImplementedError

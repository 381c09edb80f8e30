"""`lorasmith sweep`: many runs of one config, and which is best."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json, Overrides

if TYPE_CHECKING:
    from lorasmith.training.sweep import SweepResult


def sweep_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The settings that all runs share.")],
    overrides: Overrides = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=VALUE,VALUE", help="A setting and its values; may be given several times."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sweep.")] = Path("sweep"),
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at a time; default: one a device.")] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE,DEVICE", help="Devices to use: cuda:0,cuda:1 or cpu; default: all."),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option("--search", min=1, metavar="RUNS", help="Search with so many runs; --over may give LOW..HIGH."),
    ] = None,
    json: Json = False,
) -> None:
    """Train with every combination of some settings, and put the results side by side.

    Each run is a process of its own; latents are encoded once for all. Given again, the command goes on: finished runs
    are kept, stopped ones continue. The folder gets results.csv, results.json and a picture of all previews.

    With --search, Optuna proposes the values and runs that fall behind in validation loss end early.
    """
    from lorasmith import api

    result = api.sweep(
        config,
        over or [],
        out,
        overrides=overrides or [],
        devices=[part.strip() for part in device.split(",")] if device else [],
        jobs=jobs,
        search=search,
        progress=console.progress_for(),
    )
    show(result)
    if json:
        console.answer(asdict(result))
    if result.stopped:
        console.say("stopped; nothing is lost. Give the same command again to go on")
        raise typer.Exit(130)
    if not result.finished:
        raise typer.Exit(1)


def show(result: SweepResult) -> None:
    """The table, the cache and where things are."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    keys = list(result.runs[0]["values"]) if result.runs else []
    for name in (*keys, "state", "loss", "validation", "seconds", "file"):
        table.add_column(
            name, overflow="fold", justify="right" if name in ("loss", "validation", "seconds") else "left"
        )
    for run in sorted(result.runs, key=lambda r: (r["validation_loss"] is None, r["validation_loss"] or 0)):
        numbers = [_number(run[key], digits) for key, digits in (("loss", 4), ("validation_loss", 4), ("seconds", 1))]
        style = "bold" if run["run"] == result.best else None
        values = [str(run["values"][key]) for key in keys]
        table.add_row(*values, run["state"], *numbers, run["file"] or run["message"] or "", style=style)
    console.terminal().print(table)
    for sort, counts in result.cache.items():
        total = counts["found"] + counts["made"]
        if total:
            share = f"{100 * counts['found'] / total:.0f} %"
            console.say(f"cache:   {sort}: {counts['found']} of {total} found ({share}), {counts['made']} made")
    if result.best:
        console.say(f"best:    {result.best} (lowest validation loss)")
    console.say(f"results: {result.folder / 'results.csv'}, {result.folder / 'results.json'}")
    if result.comparison:
        console.say(f"picture: {result.comparison}")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

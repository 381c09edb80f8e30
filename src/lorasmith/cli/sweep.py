"""`lorasmith sweep`: many runs of one config with different settings, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overrides

if TYPE_CHECKING:
    from rich.table import Table

    from lorasmith.training.sweep import SweepResult

NUMBERS = {
    "loss": ("loss", 4),
    "validation": ("validation_loss", 4),
    "best": ("best_loss", 4),
    "at step": ("best_step", 0),
    "seconds": ("seconds", 1),
}
"""Numeric columns of the table: key in the result and decimals."""


def sweep_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The settings that all runs share.")],
    overrides: Overrides = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=VALUE,VALUE", help="A setting and its values; repeatable."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="FILE.csv|toml",
            help="A run for each line of a table: the first line has the keys, such as name,trigger,data.images.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sweep.")] = Path("sweep"),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of runs at a time; default: one for each device.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE,DEVICE", help="Devices: cuda:0,cuda:1 or cpu; default: all GPUs."),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(
            "--search",
            min=1,
            metavar="RUNS",
            help="Search with this number of runs, in place of all combinations; --over also takes LOW..HIGH.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train with every combination of some settings and compare the results.

    Each run is a separate process; latents are encoded once for all runs. If the command is run again, it continues:
    finished runs are kept, interrupted ones are resumed. The folder gets results.csv, results.json and a picture of all
    previews.

    With --search, Optuna proposes the values, and runs whose validation loss falls behind are stopped early.
    """
    from lorasmith import api

    devices = [part.strip() for part in device.split(",")] if device else []
    result = api.sweep(
        config,
        [*([] if rows is None else [rows]), *(over or [])],
        out,
        overrides=overrides or [],
        devices=devices,
        jobs=jobs,
        search=search,
        progress=console.make_progress(),
    )
    print_result(result)
    if json:
        console.print_json(asdict(result))
    if result.stopped:
        console.say("stopped; nothing is lost. Run the same command again to continue")
        raise typer.Exit(130)
    if not result.finished:
        raise typer.Exit(1)


def print_result(result: SweepResult) -> None:
    """Print the table of runs, the use of the cache and the paths of the results, on stderr."""
    console.rich_console().print(make_table(result))
    for content, counts in result.cache.items():
        total = counts["found"] + counts["made"]
        if total:
            share = f"{100 * counts['found'] / total:.0f} %"
            console.say(f"cache:   {content}: {counts['found']} of {total} found ({share}), {counts['made']} made")
    if result.best:
        console.say(f"best:    {result.best} (lowest held-out loss of its best weights)")
    if result.ties:
        console.say(f"         not distinguishable from it by these held-out images: {', '.join(result.ties)}")
    console.say(f"results: {result.folder / 'results.csv'}, {result.folder / 'results.json'}")
    if result.comparison:
        console.say(f"picture: {result.comparison}")


def make_table(result: SweepResult) -> Table:
    """A row for each run, the lowest held-out loss first; the best run is bold."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    settings = list(dict.fromkeys(key for run in result.runs for key in run["values"]))
    for name in (*settings, "state", *NUMBERS, "file"):
        table.add_column(name, overflow="fold", justify="right" if name in NUMBERS else "left")
    # runs without a validation loss come last
    for run in sorted(result.runs, key=_sort_key):
        values = [str(run["values"].get(name, "")) for name in settings]
        numbers = [_format_number(run[key], decimals) for key, decimals in NUMBERS.values()]
        file = run["best_file"] or run["file"] or run["message"] or ""
        table.add_row(*values, run["state"], *numbers, file, style="bold" if run["run"] == result.best else None)
    return table


def _sort_key(run: Mapping[str, Any]) -> tuple[bool, float]:
    loss = run["validation_loss"] if run["best_loss"] is None else run["best_loss"]
    return loss is None, loss or 0.0


def _format_number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"

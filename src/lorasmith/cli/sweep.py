"""`lorasmith sweep`: many runs of one config with different settings, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import CpusPerRun, GpusPerRun, Json, On, OnOption, Overrides, split_devices

if TYPE_CHECKING:
    from rich.table import Table

    from lorasmith.training.sweep import SweepResult
    from lorasmith.training.sweep.ranking import RunRanking

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
    rank_by: Annotated[
        str,
        typer.Option(
            "--rank-by",
            metavar="loss|NUMBER",
            help="Held-out loss of the best weights, or a number of the hook scores: likeness, drift_features ...",
        ),
    ] = "loss",
    on: On = "local",
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
    on_option: OnOption = None,
    json: Json = False,
) -> None:
    """Train with every combination of some settings and compare the results.

    Each run is a separate process; latents are encoded once for all runs. If the command is run again, it continues:
    finished runs are kept, interrupted ones are resumed. The folder gets results.csv, results.json and a picture of all
    previews.

    With --on ray or --on slurm, the runs are tasks of a cluster whose nodes share the folder; see docs/scaling.md.

    With --search, Optuna proposes the values, and runs whose validation loss falls behind are stopped early.
    """
    from lorasmith import api

    result = api.sweep(
        config,
        [*([] if rows is None else [rows]), *(over or [])],
        out,
        overrides=overrides or [],
        devices=split_devices(device),
        jobs=jobs,
        search=search,
        rank_by=rank_by,
        on=on,
        on_options=on_option or [],
        gpus_per_run=gpus_per_run,
        cpus_per_run=cpus_per_run,
        progress=console.make_progress(),
    )
    print_result(result)
    if json:
        console.print_json(to_json(result))
    end(result)


def end(result: SweepResult) -> None:
    """End the command with an exit code unless all runs are finished."""
    if result.stopped:
        console.say("stopped; nothing is lost. Run the same command again to continue")
        raise typer.Exit(130)
    if not result.finished:
        raise typer.Exit(1)


def to_json(result: SweepResult) -> dict[str, Any]:
    """The result as JSON data, with the names of results.json."""
    from lorasmith.core import quality

    ranking = result.ranking
    content = asdict(result)
    del content["ranking"]
    return content | {
        "ranked_by": ranking.by,
        "best": ranking.best,
        "ties": ranking.ties,
        "behind_the_best": quality.to_json(ranking.behind),
        "weak": ranking.weak,
    }


def print_result(result: SweepResult) -> None:
    """Print the table of runs, the use of the cache and the paths of the results, on stderr."""
    console.rich_console().print(make_table(result))
    for content, counts in result.cache.items():
        total = counts["found"] + counts["made"]
        if total:
            share = f"{100 * counts['found'] / total:.0f} %"
            console.say(f"cache:   {content}: {counts['found']} of {total} found ({share}), {counts['made']} made")
    print_ranking(result)
    console.say(f"results: {result.folder / 'results.csv'}, {result.folder / 'results.json'}")
    if result.comparison:
        console.say(f"picture: {result.comparison}")


def print_ranking(result: SweepResult) -> None:
    """Print the best run, what it is the best by, and which runs are not distinguishable from it."""
    from lorasmith.core import quality

    ranking = result.ranking
    if ranking.best is None:
        if ranking.by != "loss":
            console.say(f"best:    unknown, since no finished run has measured {ranking.by}")
        return
    by = "lowest held-out loss of its best weights" if ranking.by == "loss" else ranking.by.replace("_", " ")
    console.say(f"best:    {ranking.best} ({by})")
    if ranking.ties:
        console.say(f"         the difference is noise (its 90 % interval contains 0): {', '.join(ranking.ties)}")
    if ranking.weak:
        remedy = "hold four images or more out" if ranking.by == "loss" else quality.NUMBERS[ranking.by].remedy
        console.say(f"         weak evidence: {remedy}")


def make_table(result: SweepResult) -> Table:
    """A row for each run, the best first; the best run is bold."""
    from rich.table import Table

    ranking = result.ranking
    table = Table(box=None, pad_edge=False)
    settings = list(dict.fromkeys(key for run in result.runs for key in run["values"]))
    ranked = [] if ranking.by == "loss" else [ranking.by.replace("_", " ")]
    for name in (*settings, "state", *NUMBERS, *ranked, "behind the best", "file"):
        right = name in NUMBERS or name in ranked
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for run in sorted(result.runs, key=partial(sort_key, ranking)):
        values = [str(run["values"].get(name, "")) for name in settings]
        table.add_row(*values, *result_cells(ranking, run), style="bold" if run["run"] == ranking.best else None)
    return table


def result_cells(ranking: RunRanking, run: Mapping[str, Any]) -> list[str]:
    """The cells of a run after its settings."""
    numbers = [_format_number(run[key], decimals) for key, decimals in NUMBERS.values()]
    if ranking.by != "loss":
        numbers.append(format_interval(run["numbers"].get(ranking.by)))
    file = run["best_file"] or run["file"] or run["message"] or ""
    return [run["state"], *numbers, behind(ranking, run["run"]), file]


def behind(ranking: RunRanking, run: str) -> str:
    """How far a run is behind the best one, and whether that is noise."""
    if run == ranking.best:
        return "best"
    difference = ranking.behind.get(run)
    shown = "" if difference is None else f"{difference.mean:.4f}"
    if difference is not None and difference.has_ends:
        shown = f"{difference:.4f}"
    return f"{shown}, noise".lstrip(", ") if run in ranking.ties else shown


def sort_key(ranking: RunRanking, run: Mapping[str, Any]) -> tuple[bool, float]:
    """The best run first, those that were not measured last."""
    from lorasmith.core import quality

    if ranking.by == "loss":
        loss = run["best_loss"]
        return loss is None, loss or 0.0
    interval = run["numbers"].get(ranking.by)
    if interval is None:
        return True, 0.0
    return False, quality.NUMBERS[ranking.by].distance(interval["mean"])


def format_interval(interval: Mapping[str, float | None] | None) -> str:
    """`0.812 (0.790 to 0.834)`, or nothing."""
    from lorasmith.core.quality import interval_from_json

    own = interval_from_json(interval)
    return "" if own is None else f"{own:.3f}"


def _format_number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"

"""`lorasmith check`: what a run would do, and the problems of its config and images, before any training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overrides
from lorasmith.data.remarks import list_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lorasmith.core.errors import Problem
    from lorasmith.data.remarks import Remark
    from lorasmith.training.setup.check_result import CheckResult, StepMeasurement

UNUSED_SHOWN = 10
"""How many files that are not used are named in the summary."""

Row = tuple[str, str]
"""Label and text."""


def check_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="The settings, TOML or JSON, or a recipe's name.")
    ],
    overrides: Overrides = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also run two steps, to measure seconds per step, peak memory and hours."),
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="FILE.jpg", help="Also write a picture of the first batches of training."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a config and its images without training. Nothing is written into the output folder.

    The exit code is 1 if a run would not start.
    """
    from lorasmith import api

    result = api.check(
        config, overrides=overrides or (), measure=measure, pictures=pictures, progress=console.make_progress()
    )
    if json:
        console.print_json(result.to_dict())
    else:
        print_result(result)
    if not result.ok:
        raise typer.Exit(1)


def print_result(result: CheckResult) -> None:
    """Print the result for people on stdout."""
    out = console.rich_console(sys.stdout)
    rows = summary_rows(result)
    if rows:
        out.print(_table_of_rows(rows))
    if result.errors:
        _print_problems(out, "error", result.errors, "bold red")
    if result.warnings:
        _print_problems(out, "warning", result.warnings, "yellow")
    others = [remark for remark in result.images if remark not in result.serious]
    if result.serious:
        _print_remarks(out, f"{_count(len(result.serious), 'serious remark')} on the data", result.serious, "bold red")
    if others:
        _print_remarks(out, f"{_count(len(others), 'remark')} on the data", others, "yellow")
    if result.measured is not None:
        out.print()
        out.print(_table_of_rows(measured_rows(result.measured)))
    if result.pictures is not None:
        out.print(f"\nfirst batches: {result.pictures}")
    text, style = verdict(result)
    out.print(f"\n{text}", style=style)


def verdict(result: CheckResult) -> tuple[str, str]:
    """Whether a run would start, as a sentence, and its style."""
    if not result.ok:
        return "A run would not start. Correct the errors first.", "bold red"
    if result.serious:
        return "A run would stop at the serious remarks. Correct them, or give train --yes.", "bold red"
    if result.output_is_taken:
        return "A run would start with another output, or with train --resume or --overwrite.", "yellow"
    return "A run would start.", "green"


def summary_rows(result: CheckResult) -> list[Row]:
    """What would be trained: base, adapter, learning rates, images, length. Parts that could not be found out are left
    out."""
    rows = []
    if result.base:
        rows.append(_base_row(result))
    if result.adapter:
        rows.append(_adapter_row(result))
    for component, rates in result.rates.items():
        text = f"{rates['effective']:.3g} = {rates['lr']:.3g} (lr) x {rates['scale']:.3g} (alpha / rank)"
        rows.append((f"effective lr, {component}", text))
    if result.device:
        rows.append(("device", result.device))
    if result.memory:
        rows.append(_memory_row(result.memory))
    if result.data:
        rows.append(_images_row(result))
        rows += [_files_row(contents) for contents in result.data["files"]]
    if result.length:
        rows.append(_length_row(result))
    return rows


def _memory_row(memory: dict[str, Any]) -> Row:
    text = f"about {memory['needed']:.1f} GiB for a step, {memory['free']:.1f} GiB free"
    if memory["level"]:
        text += f"; memory level {memory['level']}: {memory['name']}"
    return "memory", text


def _base_row(result: CheckResult) -> Row:
    base = result.base
    parts = [
        base["kind"],
        base["layout"],
        base["prediction"],
        f"{base['parameters'] / 1e6:,.0f} M weights in the UNet",
    ]
    return "base", f"{base['source']}: {', '.join(parts)}"


def _adapter_row(result: CheckResult) -> Row:
    adapter = result.adapter
    kind = adapter["kind"]
    if adapter["rank"]:
        kind += f", rank {adapter['rank']}, alpha {adapter['alpha']:g}"
    layers = ", ".join(f"{count} in {component}" for component, count in adapter["layers"].items())
    parameters = sum(adapter["parameters"].values())
    return "adapter", f"{kind}; layers: {layers}; {parameters / 1e6:.2f} M trained weights"


def _images_row(result: CheckResult) -> Row:
    data = result.data
    images = f"{data['images']}"
    if data.get("validation"):
        images += f", {data['validation']} held out for validation"
    buckets = []
    for bucket in data["buckets"]:
        width, height = bucket["size"]
        buckets.append(f"{width}x{height}: {bucket['images']}")
    captions = f"{data['captions']['with']} with a caption"
    if data["captions"]["cut"]:
        captions += f", of which {data['captions']['cut']} are cut"
    text = f"{images}; {captions}; buckets {', '.join(buckets)}"
    if data.get("live"):
        text += f"; encoded anew in each step, because of {data['live']}"
    return "images", text


def _files_row(contents: dict[str, Any]) -> Row:
    """`12 files in images: 10 images, 2 not used: notes.md, 3.psd`."""
    unused = contents["unused"]
    parts = [
        f"{contents[use]} {use if contents[use] != 1 else use[:-1]}"
        for use in ("images", "captions", "masks", "tables")
        if use in contents
    ]
    if unused:
        parts.append(f"{len(unused)} not used: {list_names(unused, shown=UNUSED_SHOWN)}")
    return "files", f"{_count(contents['files'], 'file')} in {contents['folder']}: {', '.join(parts)}"


def _length_row(result: CheckResult) -> Row:
    length = result.length
    epochs = f"{length['epochs']:.3g} epochs of {length['steps_per_epoch']:,}"
    views = f"each image is seen {length['views_per_image']:.3g} times"
    return "length", f"{length['steps']:,} steps = {epochs}; {views}"


def measured_rows(measured: StepMeasurement) -> list[Row]:
    """The times and the memory that `--measure` found."""
    duration = f"{measured.hours:.2f} h" if measured.hours >= 1 else f"{measured.hours * 60:.1f} min"
    return [
        ("time per step", f"{measured.seconds_per_step:.2f} s (the first step: {measured.seconds_first:.2f} s)"),
        ("all steps", f"{duration}, without previews and validation"),
        ("peak memory", f"{measured.peak_memory / 2**30:.2f} GiB"),
    ]


def _print_problems(out: Console, name: str, problems: list[Problem], style: str) -> None:
    """A heading with the number of problems, and a table: where, what was found, what to do."""
    from rich.text import Text

    out.print(f"\n{_count(len(problems), name)}", style=style)
    table = _table("where", "found", "to do")
    for problem in problems:
        advice = [problem.remedy]
        if problem.allowed:
            advice.append(f"allowed: {problem.allowed}")
        remedy = "; ".join(text for text in advice if text)
        table.add_row(Text(problem.where), Text(problem.found), Text(remedy))
    out.print(table)


def _print_remarks(out: Console, heading: str, remarks: list[Remark], style: str) -> None:
    """A heading, and a table with a row for each image or folder."""
    from rich.text import Text

    out.print(f"\n{heading}", style=style)
    texts_by_path: dict[Path, list[str]] = {}
    for remark in remarks:
        texts_by_path.setdefault(remark.path, []).append(remark.text)
    table = _table("file", "remark")
    for path, texts in texts_by_path.items():
        table.add_row(Text(str(path)), Text("\n".join(texts)))
    out.print(table)


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _table_of_rows(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for label, text in rows:
        table.add_row(Text(label), Text(text))
    return table

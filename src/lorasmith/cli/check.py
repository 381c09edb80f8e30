"""`lorasmith check`: what a run would do, and what is wrong with it, before any training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json, Overrides

if TYPE_CHECKING:
    from rich.table import Table

    from lorasmith.core.errors import Problem
    from lorasmith.data.lint import ImageProblem
    from lorasmith.training.setup.check import CheckResult, StepMeasurement


def check_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's settings, as TOML or JSON.")],
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also make two real steps: time of a step, peak memory, hours in all.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="FILE.jpg", help="Also draw the first batches, as training gets them."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a config and its images; trains nothing, writes nothing into the output folder.

    Exit code 1 if a run would not start.
    """
    from lorasmith import api

    progress = console.progress_for()
    found = api.check(config, overrides=overrides or (), measure=measure, pictures=pictures, progress=progress)
    if json:
        console.answer(found.to_dict())
    else:
        show(found)
    if not found.ok:
        raise typer.Exit(1)


def show(found: CheckResult) -> None:
    """The result for a person, on stdout."""
    out = console.terminal(sys.stdout)
    facts = [row for row in (_model(found), _adapter(found), *_rates(found), _data(found), _length(found)) if row]
    if facts:
        out.print(_pairs(facts))
    for title, problems, style in (("errors", found.errors, "bold red"), ("warnings", found.warnings, "yellow")):
        if problems:
            out.print(f"\n{len(problems)} {title if len(problems) > 1 else title[:-1]}", style=style)
            out.print(_problems(problems))
    if found.images:
        out.print(f"\n{len(found.images)} remark{'s' if len(found.images) > 1 else ''} on images", style="yellow")
        out.print(_images(found.images))
    if found.measured is not None:
        out.print()
        out.print(_pairs(_measured(found.measured)))
    if found.pictures is not None:
        out.print(f"\nfirst batches: {found.pictures}")
    verdict = "A run would start." if found.ok else "A run would not start: repair the errors first."
    out.print(f"\n{verdict}", style="green" if found.ok else "bold red")


def _model(found: CheckResult) -> tuple[str, str] | None:
    base = found.base
    if not base:
        return None
    size = f"{base['parameters'] / 1e6:,.0f} M weights in the UNet"
    return "base", f"{base['source']}: {base['kind']}, {base['layout']}, {base['prediction']}, {size}"


def _adapter(found: CheckResult) -> tuple[str, str] | None:
    adapter = found.adapter
    if not adapter:
        return None
    layers = ", ".join(f"{count} in {component}" for component, count in adapter["layers"].items())
    weights = sum(adapter["parameters"].values())
    rank = f", rank {adapter['rank']}, alpha {adapter['alpha']:g}" if adapter["rank"] else ""
    return "adapter", f"{adapter['kind']}{rank}; layers: {layers}; {weights / 1e6:.2f} M trained weights"


def _rates(found: CheckResult) -> list[tuple[str, str]]:
    return [
        (f"effective lr, {name}", f"{r['effective']:.3g} = lr {r['lr']:.3g} x alpha / rank {r['scale']:.3g}")
        for name, r in found.rates.items()
    ]


def _data(found: CheckResult) -> tuple[str, str] | None:
    data = found.data
    if not data:
        return None
    sizes = ", ".join(f"{b['size'][0]}x{b['size'][1]}: {b['images']}" for b in data["buckets"])
    held = f", {data['validation']} held out" if data.get("validation") else ""
    live = f"; encoded anew in each step, because of {data['live']}" if data.get("live") else ""
    return "images", f"{data['images']}{held}; {data['captions']['with']} with a caption; buckets {sizes}{live}"


def _length(found: CheckResult) -> tuple[str, str] | None:
    length = found.length
    if not length:
        return None
    epochs = f"{length['epochs']:.3g} epochs of {length['steps_per_epoch']:,}"
    views = f"each image is seen {length['views_per_image']:.3g} times"
    return "length", f"{length['steps']:,} steps = {epochs}; {views}"


def _measured(measured: StepMeasurement) -> list[tuple[str, str]]:
    hours = f"{measured.hours:.2f} h" if measured.hours >= 1 else f"{measured.hours * 60:.1f} min"
    return [
        ("a step", f"{measured.seconds_per_step:.2f} s (the first {measured.seconds_first:.2f} s)"),
        ("all steps", f"{hours}, without previews and validation"),
        ("peak memory", f"{measured.peak_memory / 2**30:.2f} GiB"),
    ]


def _pairs(rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _images(problems: list[ImageProblem]) -> Table:
    """One row for each image, however many remarks it has."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("image", "remark"):
        table.add_column(name, overflow="fold")
    by_image: dict[Path, list[str]] = {}
    for p in problems:
        by_image.setdefault(p.path, []).append(p.text)
    for path, texts in by_image.items():
        table.add_row(Text(str(path)), Text("\n".join(texts)))
    return table


def _problems(problems: list[Problem]) -> Table:
    """One row for each: where, what, what may stand there and what to do."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("where", "found", "to do"):
        table.add_column(name, overflow="fold")
    for p in problems:
        remedy = "; ".join(part for part in (p.remedy, f"allowed: {p.allowed}" if p.allowed else "") if part)
        table.add_row(Text(p.where), Text(p.found), Text(remedy))
    return table

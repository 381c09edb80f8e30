"""`lorasmith inspect`: what is in a LoRA file and how it was made, and whether a run has trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import BasePart, Json, Plugins

MAX_CHARACTERS = 300
"""Longer values are cut."""
MAX_ENTRIES = 12
"""Entries of a list or table that are printed."""
BAR_LENGTH = 24
SEVERITY_STYLES = {"serious": "bold red", "warning": "yellow", "note": ""}
"""How findings about a run are printed."""

LABELS = {
    "bytes": "size",
    "norms": "change",
    "readers": "loads in",
    "spelling": "format",
    "strangers": "unknown tensors",
    "words": "new tokens",
}
"""Keys of the result that are printed under another name."""


def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, `.safetensors`, or the folder of a run.")],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="PICTURE", help="Also write a bar chart of the change of each block."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="BASE",
            help="Also say what is left of the change where this base model is stored in fp16 or fp8.",
        ),
    ] = None,
    base_part: BasePart = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show what a LoRA file holds: kind, rank, layers, trigger words, and the settings that it was trained with.

    Of the folder of a run: whether it trained (adapters with a gradient, change of the weights, effective learning
    rate, clipped steps, timesteps seen, captions), its best weights and why, and what is wrong.
    """
    from lorasmith import api

    contents = api.inspect(file, plot=plot, base=base, base_parts=base_part or ())
    if json:
        console.print_json(contents)
    else:
        print_contents(contents)


def print_contents(contents: Mapping[str, Any]) -> None:
    """Print the result for people on stdout: a table, then the training config as TOML that can be run again."""
    from rich.table import Table
    from rich.text import Text

    out = console.rich_console(sys.stdout)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for name, value in rows(contents):
        table.add_row(Text(name), Text(value))
    out.print(table)
    for finding in contents.get("findings", ()):
        out.print(Text(f"{finding['severity']}: {finding['text']}", style=SEVERITY_STYLES[finding["severity"]]))
    if contents.get("config"):
        out.print("\nmade with this config:", style="bold")
        console.show(str(contents["config"]).strip())


def rows(contents: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Label and text of each row of the table. Empty values are left out."""
    formats = {
        "bytes": format_size,
        "notes": "\n".join,
        "readers": format_readers,
        "norms": format_norms,
        "training": format_training,
        "tags": format_counts,
    }
    for name, value in contents.items():
        if value in (None, "", [], {}, ()) or name in ("config", "findings"):
            continue
        # the config of a file from Lorasmith, printed below, has the same settings in full
        if name == "training" and contents.get("config"):
            continue
        yield LABELS.get(name, name), formats.get(name, format_value)(value)


def format_size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def format_counts(counts: Mapping[str, int]) -> str:
    """Tags with their counts, in the order of the file: most frequent first."""
    entries = [f"{name} ({count})" for name, count in list(counts.items())[:MAX_ENTRIES]]
    if len(counts) > MAX_ENTRIES:
        entries.append("...")
    return ", ".join(entries)


def format_readers(readers: Mapping[str, Any]) -> str:
    """A line for each verdict (yes, no ...) with the programs that it holds for, then remarks on single programs."""
    # Programs with the same verdict share a line.
    programs: dict[str, list[str]] = {}
    for program, verdict in readers.items():
        programs.setdefault(str(verdict["loads"]), []).append(program)
    lines = [f"{', '.join(names)}: {loads}" for loads, names in programs.items()]
    for program, verdict in readers.items():
        lines += [f"{program}: {remark}" for remark in verdict["remarks"]]
    return "\n".join(lines)


def format_norms(norms: Mapping[str, float]) -> str:
    """A line for each block with the norm of its change and a bar."""
    highest = max(norms.values()) or 1.0
    width = max(len(block) for block in norms)
    lines = []
    for block, norm in norms.items():
        bar = "=" * max(1, round(BAR_LENGTH * norm / highest))
        lines.append(f"{block:<{width}}  {norm:8.4g}  {bar}")
    return "\n".join(lines)


def format_training(settings: Mapping[str, str]) -> str:
    """The metadata of another trainer, a line for each setting."""
    return "\n".join(f"{name} = {format_value(value)}" for name, value in sorted(settings.items()))


def format_value(value: Any) -> str:
    """Any value on one line; long ones are cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(item)}" for key, item in list(value.items())[:MAX_ENTRIES])
    if isinstance(value, list | tuple):
        text = ", ".join(format_value(item) for item in value[:MAX_ENTRIES])
        return text if len(value) <= MAX_ENTRIES else f"{text} and {len(value) - MAX_ENTRIES} more"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ..."

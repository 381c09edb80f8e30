"""`lorasmith inspect`: what is in a LoRA file and how it was made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json

LONGEST = 300
MOST_ENTRIES = 12


def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, `.safetensors`.")], json: Json = False
) -> None:
    """Show what a LoRA file holds: kind, rank, layers, trigger words, and the settings it was made with."""
    from lorasmith import api

    found = api.inspect(file)
    if json:
        console.answer(found)
    else:
        show(found)


def show(found: Mapping[str, Any]) -> None:
    """The answer for a person, on stdout: facts as a table, then the config as it can be run again."""
    from rich.table import Table
    from rich.text import Text

    out = console.terminal(sys.stdout)
    config = found.get("config")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for name, value in rows({key: value for key, value in found.items() if key != "config"}):
        table.add_row(Text(name), Text(value))
    out.print(table)
    if config:
        text = config if isinstance(config, str) else _toml(config)
        out.print("\nmade with this config:", style="bold")
        print(text.strip(), file=sys.stdout)


def rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and value, tables inside tables unfolded, empty values left out."""
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ") if not prefix else f"{prefix}{key}"
        if value in (None, "", [], {}, ()):
            continue
        if isinstance(value, Mapping):
            entries = dict(list(value.items())[:MOST_ENTRIES])
            yield from rows(entries, f"{name}, ")
            if len(value) > MOST_ENTRIES:
                yield f"{name}, ...", f"{len(value) - MOST_ENTRIES} more; all of them with --json"
        else:
            yield name, shown(value)


def shown(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MOST_ENTRIES} more" if len(value) > MOST_ENTRIES else ""
        return ", ".join(shown(v) for v in value[:MOST_ENTRIES]) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _toml(config: Mapping[str, Any]) -> str:
    from lorasmith.core.config import to_toml

    return to_toml(dict(config))

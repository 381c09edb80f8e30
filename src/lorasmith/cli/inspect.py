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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, `.safetensors`.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PICTURE", help="Also draw the change of each block, as bars.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a LoRA file holds: kind, rank, layers, trigger words, and the settings it was made with."""
    from lorasmith import api

    found = api.inspect(file, plot=plot)
    if json:
        console.answer(found)
    else:
        show(found)


def show(found: Mapping[str, Any]) -> None:
    """The answer for a person, on stdout: facts as a table, then the config as it can be run again."""
    from rich.table import Table
    from rich.text import Text

    out = console.terminal(sys.stdout)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for name, value in rows(found):
        table.add_row(Text(name), Text(value))
    out.print(table)
    if found.get("config"):
        out.print("\nmade with this config:", style="bold")
        print(str(found["config"]).strip(), file=sys.stdout)


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of what is worth a line; empty values are left out."""
    special = {"bytes": size, "readers": readers, "norms": norms, "training": training, "tags": counts}
    for name, value in found.items():
        # our own config tells it better
        if value in (None, "", [], {}, ()) or name == "config" or (name == "training" and found.get("config")):
            continue
        text = special.get(name, shown)(value)
        yield {"norms": "change", "bytes": "size", "readers": "loads in"}.get(name, name), text


def size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def counts(values: Mapping[str, int]) -> str:
    """The commonest first, as the file has them."""
    entries = list(values.items())[:MOST_ENTRIES]
    return ", ".join(f"{name} ({count})" for name, count in entries) + (", ..." if len(values) > MOST_ENTRIES else "")


def readers(values: Mapping[str, Any]) -> str:
    """Programs by whether they load the file; remarks below."""
    answers: dict[str, list[str]] = {}
    for program, verdict in values.items():
        answers.setdefault(str(verdict["loads"]), []).append(program)
    lines = [f"{', '.join(programs)}: {answer}" for answer, programs in answers.items()]
    lines += [f"{program}: {remark}" for program, verdict in values.items() for remark in verdict["remarks"]]
    return "\n".join(lines)


def norms(values: Mapping[str, float]) -> str:
    """The size of the change in each block, with a bar."""
    most, widest = max(values.values()) or 1.0, max(map(len, values))
    return "\n".join(f"{name:<{widest}}  {v:8.4g}  {'=' * max(1, round(24 * v / most))}" for name, v in values.items())


def training(values: Mapping[str, str]) -> str:
    """What another trainer says of how it was made."""
    return "\n".join(f"{name} = {shown(value)}" for name, value in sorted(values.items()))


def shown(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown(v)}" for key, v in list(value.items())[:MOST_ENTRIES])
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MOST_ENTRIES} more" if len(value) > MOST_ENTRIES else ""
        return ", ".join(shown(v) for v in value[:MOST_ENTRIES]) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."

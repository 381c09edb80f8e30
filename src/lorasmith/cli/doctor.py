"""`lorasmith doctor`: whether this machine is ready, and what to do if not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Device, Json

if TYPE_CHECKING:
    from lorasmith.training.doctor import Diagnosis

STYLES = {"ok": "", "note": "yellow", "problem": "bold red"}


def doctor_command(
    device: Device = "auto",
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Train ten steps on the embedded base, and check the loss.")
    ] = True,
    json: Json = False,
) -> None:
    """Look at this machine: device, torch, memory, disk, optional parts, caches, and a ten-second test run.

    Says what is wrong and what to do. Needs no network, leaves no files, and prints no token. Exit code 1 if something
    is wrong.
    """
    from lorasmith import api

    diagnosis = api.doctor(device, self_test=test, progress=console.make_progress())
    if json:
        console.print_json(diagnosis.plain())
    else:
        print_diagnosis(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(1)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print a table for people on stdout: what was looked at, what was found, what to do."""
    from rich.table import Table
    from rich.text import Text

    out = console.rich_console(sys.stdout)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        text = Text(finding.value, style=STYLES[finding.level])
        if finding.advice:
            text.append(f"\n-> {finding.advice}", style="")
        table.add_row(Text(finding.name), text)
    out.print(table)
    problems = [finding.name for finding in diagnosis.findings if finding.level == "problem"]
    if problems:
        out.print(f"\nTo repair: {', '.join(problems)}.", style="bold red")
    else:
        out.print("\nThis machine is ready.", style="green")

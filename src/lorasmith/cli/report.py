"""`lorasmith report`: the report of a run, also of one that is under way or was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    json: Json = False,
) -> None:
    """Write report.html and loss.png of a run from the files in its folder.

    A run writes them itself every minute, after each preview, and at its end.
    """
    from lorasmith import api

    written = [api.report(run) for run in runs]
    if json:
        console.print_json({"reports": [str(path) for path in written]})
        return
    for path in written:
        print(path)

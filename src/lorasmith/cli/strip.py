"""`lorasmith strip`: take names, captions and paths out of a file before it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, NewFile, Overwrite


def strip_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A `.safetensors` file of any trainer.")],
    to: Annotated[
        str, typer.Option("--to", metavar="public|minimal|none", help="What the metadata of the new file contain.")
    ] = "public",
    output: NewFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Take private metadata out of a file; its weights stay the same, byte for byte.

    public: without names of image folders, captions, tags, prompts and paths, but with name, trigger words, base,
    settings and hashes. none: what programs need to load the file, and nothing else. minimal: that and the model spec
    (title, author, trigger words).
    """
    from lorasmith import api

    report = api.strip(file, to, output=output, overwrite=overwrite)
    lines = [f"written: {report.file}", f"removed: {', '.join(report.removed) or 'nothing'}"]
    if report.changed:
        lines.append(f"changed: {', '.join(report.changed)}")
    lines.append(f"kept:    {', '.join(report.kept) or 'nothing'}")
    console.say("\n".join(lines))
    if json:
        console.print_json(report.plain())

"""`lorasmith ship`: a file that is ready to be passed on, with a picture and what a user of it should know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, LoraFile, NewFile, Overwrite


def ship_command(
    file: LoraFile,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="A picture that user interfaces show as the card of the file.")
    ] = None,
    trigger: Annotated[str, typer.Option("--trigger", help="Words that call the concept.")] = "",
    title: Annotated[str, typer.Option("--title", help="The name that is shown.")] = "",
    author: Annotated[str, typer.Option("--author", help="Who made it.")] = "",
    license: Annotated[str, typer.Option("--license", help="Under which licence it may be used.")] = "",
    notes: Annotated[str, typer.Option("--notes", help="What it is.")] = "",
    hint: Annotated[str, typer.Option("--hint", help="How to use it, such as the best strength.")] = "",
    output: NewFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a copy of a LoRA with a picture, trigger words, licence and notes in its metadata, without private ones.

    Settings that are not given stay as they are. Private metadata are taken out as `lorasmith strip` does. The weights
    stay the same, byte for byte.
    """
    from lorasmith import api

    path = api.ship(
        file,
        output=output,
        overwrite=overwrite,
        thumbnail=picture,
        trigger=trigger,
        title=title,
        author=author,
        license=license,
        description=notes,
        usage_hint=hint,
    )
    console.say(f"written: {path}")
    if json:
        console.print_json({"file": str(path)})

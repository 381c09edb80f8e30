"""`lorasmith masks`: masks of the subject for all images of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json


def masks_command(
    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="The images.")],
    source: Annotated[
        str, typer.Option("--from", help="alpha (transparency), color (a plain background), or rembg (a model).")
    ] = "alpha",
    color: Annotated[str | None, typer.Option("--color", help="Of the background; default: the border's.")] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="How far a channel may be from it, 0..1; default 0.1.")
    ] = None,
    holes: Annotated[
        bool, typer.Option("--holes", help="That colour inside of the subject is background too.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", help="Of rembg: u2net, isnet-anime ...")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: FOLDER/masks.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make those again that are there.")] = False,
    json: Json = False,
) -> None:
    """Make a mask of the subject for each image, as FOLDER/masks/NAME.png, and a picture of all of them to look at.

    Use them with data.masks = "FOLDER/masks".
    """
    from lorasmith import api

    given = {"color": color, "tolerance": tolerance, "holes": holes or None, "model": model}
    settings = {key: value for key, value in given.items() if value is not None}
    made = api.masks(
        images, source, output=output, overwrite=overwrite, progress=console.progress_for(), settings=settings
    )
    if json:
        console.answer(made.to_dict())
        return
    for path, text in made.remarks.items():
        console.say(f"{path}: {text}; look at it")
    kept = f", {len(made.kept)} were there and stay (--overwrite makes them again)" if made.kept else ""
    print(f"{len(made.made)} masks made in {made.folder}{kept}")
    print(f"look at them: {made.sheet}")
    print(f'train with them: data.masks = "{made.folder}"')

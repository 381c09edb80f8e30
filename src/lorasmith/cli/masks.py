"""`lorasmith masks`: masks of the subject for all images of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json


def masks_command(
    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of images.")],
    source: Annotated[
        str,
        typer.Option("--from", help="alpha (transparency), color (a plain background), or rembg (a neural network)."),
    ] = "alpha",
    color: Annotated[
        str | None,
        typer.Option("--color", help="For color: the colour of the background. Default: that of the image's border."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", help="For color: how far a channel may differ from the background, 0..1; default 0.1."
        ),
    ] = None,
    holes: Annotated[
        bool, typer.Option("--holes", help="For color: this colour is background inside the subject too.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", help="For rembg: u2net, isnet-anime ...")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the masks. Default: FOLDER/masks.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make masks again that exist already.")] = False,
    json: Json = False,
) -> None:
    """Make a mask of the subject for each image of a folder, and a contact sheet to check them.

    Masks are written as FOLDER/masks/NAME.png. Train with them by data.masks = "FOLDER/masks".
    """
    from lorasmith import api

    # Options that are not given are left out, so that the defaults of the masker apply.
    given = {"color": color, "tolerance": tolerance, "holes": holes or None, "model": model}
    settings = {key: value for key, value in given.items() if value is not None}
    result = api.masks(
        images, source, output=output, overwrite=overwrite, progress=console.make_progress(), settings=settings
    )
    if json:
        console.print_json(result.to_dict())
        return
    for path, remark in result.remarks.items():
        console.say(f"{path}: {remark}; check this mask")
    line = f"{len(result.made)} masks written to {result.folder}"
    if result.kept:
        line += f"; {len(result.kept)} exist already and are unchanged (--overwrite makes them again)"
    console.show(line)
    console.show(f"check them: {result.sheet}")
    console.show(f'train with them: data.masks = "{result.folder}"')

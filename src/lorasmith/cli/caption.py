"""`lorasmith caption`: captions for all images of a folder, by a model in a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Device, Json


def caption_command(
    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of images.")],
    model: Annotated[
        Path,
        typer.Option("--model", help="The folder of a captioning model (transformers) or of a tagging model (ONNX)."),
    ],
    prefix: Annotated[str, typer.Option("--prefix", help='Text before each caption, such as "garp, ".')] = "",
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="For tags: the lowest probability, 0..1; default 0.35.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The instruction, for models that follow one.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="The longest caption in the model's tokens; default 60.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions that are there.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write captions for the images that have none, by a model.

    The model must be in a folder of this machine; nothing is downloaded. Read the captions before training: describe
    what should stay changeable, and put the trigger in front (--prefix).
    """
    from lorasmith import api

    # Options that are not given are left out, so that the defaults of the captioner apply.
    given = {"threshold": threshold, "prompt": prompt, "max_tokens": max_tokens}
    settings = {"device": device, **{key: value for key, value in given.items() if value is not None}}
    result = api.caption(
        images, model, prefix=prefix, overwrite=overwrite, settings=settings, progress=console.make_progress()
    )
    if json:
        console.print_json(result.to_dict())
        return
    line = f"{len(result.written)} captions written"
    if result.kept:
        line += f"; {len(result.kept)} exist already and are unchanged (--overwrite replaces them)"
    print(line)

"""`lorasmith reproduce`: train a LoRA file again from its metadata, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overrides, Overwrite

if TYPE_CHECKING:
    from lorasmith.training.reproduce import Reproduction


def reproduce_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA that Lorasmith has trained, `.safetensors`.")],
    overrides: Overrides = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="DIR", help="The images; for several subsets, one for each, in order."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="The base model, if it is not where its name says.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The config of the run, if that in the file lacks settings."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the new run. Default: NAME-reproduced.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--train/--no-train", help="Whether to train, or only to say what differs.")
    ] = True,
    trust: Annotated[
        bool, typer.Option("--trust", help="Import the plug-ins and classes that the file names.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a LoRA file again from its own metadata, and say whether the result is identical.

    If not: what differs (images, captions, base, versions, device), and by how much the weights do. Exit code 1 if the
    files are not identical.
    """
    from lorasmith import api

    result = api.reproduce(
        file,
        data or (),
        base=base,
        config=config,
        overrides=overrides or (),
        output=output,
        training=training,
        trust=trust,
        overwrite=overwrite,
        progress=console.make_progress(),
    )
    console.say(describe(result))
    if json:
        console.print_json(result.plain())
    if not result.identical and (training or result.differences):
        raise typer.Exit(1)


def describe(result: Reproduction) -> str:
    """The verdict for people."""
    lines: list[str] = []
    comparison = result.comparison
    if result.identical:
        lines.append(f"identical: {result.file} has the weights of {result.original}, bit for bit")
    elif comparison is not None:
        lines.append(
            f"not identical: {result.file} and {result.original}: cosine of the changes {comparison.cosine:.8f}, "
            f"|difference| / |change| {comparison.relative:.3g}, largest difference of a number "
            f"{comparison.max_difference:.3g}"
        )
        if comparison.missing:
            lines.append(f"{len(comparison.missing)} tensors are in one of them only, or have other shapes")
    lines += [f"differs: {difference}" for difference in result.differences]
    if not result.differences and not result.identical:
        lines.append(
            "nothing that is known differs"
            if comparison is None
            else "nothing that is known differs; on a GPU, only runs with deterministic = true are repeated exactly"
        )
    return "\n".join(lines)

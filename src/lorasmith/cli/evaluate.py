"""`lorasmith evaluate`: how well pictures show the concept and their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.sample import read_numbers, read_size
from lorasmith.cli.train import Json


def evaluate_command(
    images: Annotated[Path, typer.Option("--images", help="Folder with the training images.")],
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A row of the table; may be given several times."),
    ] = None,
    drawn: Annotated[
        list[Path] | None, typer.Option("--drawn", metavar="FOLDER", help="Pictures that are there, as a row.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="The base model to draw with.")] = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="The base alone, with the class word, as a row.")] = (
        False
    ),
    trigger: Annotated[str | None, typer.Option("--trigger", help="What calls the concept.")] = None,
    class_word: Annotated[str | None, typer.Option("--class", help="Plain word of what it is, as dog.")] = None,
    prompts: Annotated[
        str, typer.Option("--prompts", help="object, character, scene (20 each), or a file with <TOK> in its lines.")
    ] = "object",
    count: Annotated[int | None, typer.Option("--count", help="Pictures of each prompt; default 50.")] = None,
    scorer: Annotated[str, typer.Option("--scorer", help="clip, or judge (for tiny-sd).")] = "clip",
    model: Annotated[
        str | None, typer.Option("--model", help="Of the scorer: a folder or hub id; default: CLIP ViT-B/32.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures, numbers and report.")] = Path(
        "evaluation"
    ),
    strengths: Annotated[
        str | None, typer.Option("--strengths", metavar="0.5,1", help="Each LoRA at these strengths.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the sampler; default 20.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Default: the base's own.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Further: cfg, sampler, seed, negative, batch_size, device ..."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure how well LoRAs show their concept and their prompts, and compare them.

    Draws prompts many times, or takes pictures that are there, and compares them with their texts (text alignment) and
    with the training images (image alignment). Writes evaluation.json, report.html and the pictures; called again, it
    draws only what is missing and looks only at what is new.
    """
    width, height = (None, None) if size is None else read_size(size)
    table: dict[str, Any] = {
        "count": count, "steps": steps, "width": width, "height": height, "trigger": trigger, "class_word": class_word,
        "strengths": None if strengths is None else read_numbers(strengths),
        "scorer": {"kind": scorer} | ({} if model is None else {"model": model}),
    }  # fmt: skip
    from lorasmith import api
    from lorasmith.core.config import override

    settings = override({key: value for key, value in table.items() if value is not None}, option or [])
    found = api.evaluate(
        images, lora or [], base=base, drawn=drawn or [], with_base=with_base, prompts=prompts, output=output,
        progress=console.progress_for(), settings=settings,
    )  # fmt: skip
    answer(found, json)


def answer(found: Any, json: bool) -> None:
    """The table, and where to look further."""
    if json:
        console.answer({"report": str(found.report), "file": str(found.file), **found.to_dict()})
        return
    wide = max(len(row.name) for row in found.rows)
    print(f"{'':{wide}}  text align.  text cosine  image align.  nearest  pictures")
    for row in found.rows:
        numbers = row.numbers()
        shown = ["-" if numbers[k] is None else f"{numbers[k]:.4f}" for k in ("text_alignment", "text_cosine")]
        near = row.measurement.nearest[0].cosine
        print(
            f"{row.name:{wide}}  {shown[0]:>11}  {shown[1]:>11}  {numbers['image_alignment']:>12.4f}  {near:>7.4f}"
            f"  {numbers['pictures']:>8}"
        )
    limit = found.highest_training_similarity
    if limit is not None:
        print(f"highest similarity of two training images: {limit:.4f}; a picture above it may be a copy")
    print(f"look at it: {found.report}")

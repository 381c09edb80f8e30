"""`lorasmith evaluate`: how well pictures show the concept and their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import BasePart, Json, Plugins
from lorasmith.cli.sample import parse_size, parse_strengths

if TYPE_CHECKING:
    from lorasmith.core.intervals import Interval
    from lorasmith.evaluation.results import Evaluation


Images = Annotated[Path, typer.Option("--images", help="Folder with the training images.")]
LoraFiles = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A LoRA to evaluate; repeatable.")
]
PictureFolders = Annotated[
    list[Path] | None,
    typer.Option("--drawn", metavar="FOLDER", help="A folder of existing pictures to evaluate; repeatable."),
]
Base = Annotated[str | None, typer.Option("--base", help="The base model that generates the pictures.")]
WithBase = Annotated[
    bool, typer.Option("--with-base", help="Evaluate the base model alone too, with the class word in its prompts.")
]
Trigger = Annotated[
    str | None, typer.Option("--trigger", help="The trigger words of the LoRA; they replace <TOK> in prompts.")
]
ClassWord = Annotated[
    str | None, typer.Option("--class", help="A plain word for what the concept is, for example dog.")
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="object, character or scene (20 prompts each), short (8), or a file with a prompt on each line.",
    ),
]
Count = Annotated[int | None, typer.Option("--count", help="Pictures of each prompt; default 50.")]
ScorerKind = Annotated[
    str,
    typer.Option("--scorer", help="What compares: clip, dino (knows no text), or judge (only for tiny-sd)."),
]
ScorerModel = Annotated[
    str | None,
    typer.Option("--model", help="CLIP or DINO: a folder or a hub id; default: ViT-B/32, ViT-S/16."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures, numbers and report.")]
HeldOut = Annotated[
    Path | None,
    typer.Option("--held-out", help="Folder with images of the concept that were not trained on, for copying by loss."),
]
ClassImages = Annotated[
    Path | None,
    typer.Option("--class-images", help="Folder with images of other things and captions, for drift by loss."),
]
Strengths = Annotated[
    str | None, typer.Option("--strengths", metavar="0.5,1", help="Evaluate each LoRA at these strengths.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps; default 20.")]
Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Pixels; default: the size of the base model.")]
OtherSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Other settings: cfg, sampler, seed, negative, batch_size, device ...; repeatable.",
    ),
]


def evaluate_command(
    images: Images,
    lora: LoraFiles = None,
    drawn: PictureFolders = None,
    base: Base = None,
    with_base: WithBase = False,
    trigger: Trigger = None,
    class_word: ClassWord = None,
    prompts: Prompts = "object",
    count: Count = None,
    scorer: ScorerKind = "clip",
    model: ScorerModel = None,
    output: Output = Path("evaluation"),
    held_out: HeldOut = None,
    class_images: ClassImages = None,
    strengths: Strengths = None,
    steps: Steps = None,
    size: Size = None,
    base_part: BasePart = None,
    option: OtherSettings = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Measure how well LoRAs show their concept and follow prompts, and compare them.

    Generates pictures, or takes existing ones, and compares them with their prompts (text alignment) and with the
    training images (image alignment). Writes evaluation.json, report.html and the pictures. If it is run again, only
    missing pictures are generated and only new ones are measured.
    """
    from lorasmith import api
    from lorasmith.core.config import override

    # Options that are not given are left out, so that the defaults of EvaluateSettings apply.
    width, height = (None, None) if size is None else parse_size(size)
    table: dict[str, Any] = {
        "count": count,
        "steps": steps,
        "width": width,
        "height": height,
        "trigger": trigger,
        "base_parts": base_part,
        "class_word": class_word,
        "held_out": held_out,
        "class_images": class_images,
        "strengths": None if strengths is None else parse_strengths(strengths),
        "scorer": {"kind": scorer} if model is None else {"kind": scorer, "model": model},
    }
    given = {key: value for key, value in table.items() if value is not None}
    evaluation = api.evaluate(
        images,
        lora or [],
        prompts=prompts,
        output=output,
        settings=override(given, option or []),
        progress=console.make_progress(),
        base=base,
        drawn=drawn or [],
        with_base=with_base,
    )
    if json:
        files = {"report": str(evaluation.report), "file": str(evaluation.file)}
        console.print_json({**files, **evaluation.to_dict()})
    else:
        print_evaluation(evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print a line for each candidate on stdout, and the path of the report."""
    width = max(len(row.name) for row in evaluation.rows)
    console.show(f"{'':{width}}  text align.  text cosine  image align.  nearest  pictures")
    for row in evaluation.rows:
        numbers = row.numbers()
        columns = [
            f"{row.name:{width}}",
            f"{_format_score(numbers['text_alignment']):>11}",
            f"{_format_score(numbers['text_cosine']):>11}",
            f"{_format_score(numbers['image_alignment']):>12}",
            f"{row.measurement.nearest[0].cosine:>7.4f}",
            f"{numbers['pictures']:>8}",
        ]
        console.show("  ".join(columns))
    print_numbers(evaluation)
    limit = evaluation.highest_training_similarity
    if limit is not None:
        console.show(
            f"highest similarity of two training images: {limit:.4f}; a picture nearer than that may be a copy"
        )
    console.show(f"report: {evaluation.report}")


def print_numbers(evaluation: Evaluation) -> None:
    """Print the four numbers with their intervals, a line for each candidate, and the best LoRA by each of them."""
    from lorasmith.core.quality import NUMBERS

    columns = [["", *(row.name for row in evaluation.rows)]]
    for name in evaluation.measured:
        columns.append(
            [NUMBERS[name].label, *(_format_interval(row.four_numbers.get(name)) for row in evaluation.rows)]
        )
    widths = [max(map(len, column)) for column in columns]
    console.show("with 90 % intervals over prompts and seeds, and over images for losses:")
    for line in zip(*columns, strict=True):
        console.show("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    for ranking in evaluation.rankings():
        ties = f"; not distinguishable from it: {', '.join(ranking.ties)}" if ranking.ties else ""
        weak = f"; weak evidence: {NUMBERS[ranking.number].remedy}" if ranking.weak else ""
        console.show(f"best by {NUMBERS[ranking.number].label}: {ranking.best}{ties}{weak}")


def _format_interval(value: Interval | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

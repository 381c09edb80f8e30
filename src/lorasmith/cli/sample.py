"""`lorasmith sample`: pictures from a base model and LoRA files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import BasePart, Json, Plugins
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from lorasmith.sampling.run import SampleResult

Base = Annotated[
    str,
    typer.Option("--base", help="The base model: tiny-sd, tiny-flow, a diffusers folder, a hub id or a .safetensors."),
]
PromptTexts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; repeatable.")]
PromptsFile = Annotated[
    Path | None, typer.Option("--prompts", help="A file of prompts: one on each line, or TOML or JSON.")
]
LoraFiles = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A LoRA with its strength; repeatable.")
]
EmbeddingFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--embedding", metavar="FILE", help="An embedding; its file name is the new token in prompts; repeatable."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and grid.png.")]
Negative = Annotated[str | None, typer.Option("--negative", "-n", help="Negative prompt of all pictures.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the first picture of each prompt; default 0.")]
Count = Annotated[
    int | None, typer.Option("--count", help="Pictures of each prompt, with consecutive seeds; default 1.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps; default 20.")]
Cfg = Annotated[float | None, typer.Option("--cfg", help="Guidance scale; 1 turns guidance off; default 7.")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="ddim, euler_a, dpm++_2m_karras ...; default ddim.")]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Pixels, multiples of 8; default: the size of the base model."),
]
Strengths = Annotated[
    str | None,
    typer.Option("--strengths", metavar="0,0.5,1", help="Generate each picture at each of these LoRA strengths."),
]
RegionsFile = Annotated[
    Path | None,
    typer.Option("--regions", metavar="FILE", help="Parts of the picture with their own prompts; see docs/regions.md."),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control", metavar="MODEL=IMAGE[:WEIGHT]", help="A ControlNet or T2I-Adapter with its picture; repeatable."
    ),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=IMAGE",
        help="The picture of a condition that the LoRA was trained with; repeatable.",
    ),
]
OtherSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Other settings: like (a1111, comfyui: draw as that program does), apart, clip_skip, rescale, vae, "
        "batch_size, device, precision, prediction, zero_terminal_snr; repeatable.",
    ),
]


def sample_command(
    base: Base,
    prompt: PromptTexts = None,
    prompts: PromptsFile = None,
    lora: LoraFiles = None,
    embedding: EmbeddingFiles = None,
    output: Output = Path("samples"),
    negative: Negative = None,
    seed: Seed = None,
    count: Count = None,
    steps: Steps = None,
    cfg: Cfg = None,
    sampler: Sampler = None,
    size: Size = None,
    strengths: Strengths = None,
    regions: RegionsFile = None,
    control: Controls = None,
    condition: Conditions = None,
    base_part: BasePart = None,
    option: OtherSettings = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Generate pictures with a base model and LoRA files.

    Writes PNG files with their settings inside, in the format of A1111, and a labelled grid. Prompts may contain
    (emphasis:1.2), <lora:name:0.8> and BREAK. Lines of a prompts file may have options such as --n blurry --d 7, which
    take precedence over those given here.
    """
    source, regions = choose_prompts(prompt, prompts, regions)

    # Options that are not given are left out, so that the defaults of SampleSettings apply.
    width, height = (None, None) if size is None else parse_size(size)
    table: dict[str, Any] = {
        "negative": negative,
        "seed": seed,
        "count": count,
        "steps": steps,
        "cfg": cfg,
        "sampler": sampler,
        "width": width,
        "height": height,
        "strengths": None if strengths is None else parse_strengths(strengths),
        "base_parts": base_part,
        "embeddings": embedding,
        "conditions": None if condition is None else parse_conditions(condition),
    }
    given = {key: value for key, value in table.items() if value is not None}
    result = _sample(base, source, output, lora or [], given, option or [], regions, control or [])
    if json:
        console.print_json({"folder": result.folder, "files": list(result.files), "grid": result.grid})
    else:
        print_result(result)


def choose_prompts(
    texts: list[str] | None, file: Path | None, regions: Path | None
) -> tuple[list[str] | Path, Path | None]:
    """The prompts, or the file of prompts, and the file of regions. Raises LorasmithError unless exactly one source of
    prompts is given."""
    if texts is None and file is None and regions is not None:
        # A TOML or JSON file of regions may also hold the prompt of the whole picture; then it is a file of prompts.
        if regions.suffix in (".toml", ".json"):
            return regions, None
        raise LorasmithError(f"{regions}: add --prompt TEXT for the whole picture")
    if texts is not None and file is None:
        return texts, regions
    if file is not None and texts is None:
        return file, regions
    raise LorasmithError("give either --prompt TEXT (it may be repeated) or --prompts FILE")


def _sample(
    base: str,
    prompts: list[str] | Path,
    folder: Path,
    loras: list[str],
    table: dict[str, Any],
    overrides: list[str],
    regions: Path | None,
    controls: list[str],
) -> SampleResult:
    """Check the settings and sample. `table`: settings from options; `overrides`: those of `--set`."""
    from lorasmith.core.config import override, validate
    from lorasmith.sampling.control import Control
    from lorasmith.sampling.loras import LoraUse
    from lorasmith.sampling.regions import read_regions
    from lorasmith.sampling.run import sample_to_folder
    from lorasmith.sampling.settings import SampleSettings

    if controls:
        table["controls"] = [Control.read(text) for text in controls]
    if regions is not None:
        table["regions"] = [region.model_dump() for region in read_regions(regions)]
    settings = validate(SampleSettings, override(table, overrides), "the options")
    uses = [LoraUse.read(text) for text in loras]
    return sample_to_folder(base, prompts, folder, loras=uses, settings=settings, progress=console.make_progress())


def print_result(result: SampleResult) -> None:
    """Print where the pictures are, on stderr."""
    names = result.files[0].name if len(result.files) == 1 else f"{result.files[0].name} ..."
    console.say(f"pictures: {len(result.files)} in {result.folder} ({names})")
    console.say(f"grid:     {result.grid}")


def parse_conditions(texts: list[str]) -> dict[str, str]:
    """The pictures of conditions by their names, of texts `NAME=IMAGE`."""
    pictures: dict[str, str] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not name or not sign or not path:
            raise LorasmithError(f'--condition "{text}": write NAME=IMAGE, for example pose=pose.png')
        pictures[name] = path
    return pictures


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `512x768`, or of one number for both."""
    match = re.fullmatch(r"(\d+)(?:\s*[xX*]\s*(\d+))?", text.strip())
    if match is None:
        raise LorasmithError(f'--size "{text}": write WIDTHxHEIGHT, for example 512x768')
    width, height = match.groups()
    return int(width), int(height or width)


def parse_strengths(text: str) -> list[float]:
    """The numbers of a list with commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError
        return numbers
    except ValueError:
        raise LorasmithError(f'--strengths "{text}": write numbers with commas, for example 0,0.5,1') from None

"""`lorasmith sample`: pictures from a base model and LoRA files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json
from lorasmith.core.errors import LorasmithError

Base = Annotated[str, typer.Option("--base", help="tiny-sd, a diffusers folder, a hub id or a .safetensors file.")]
PromptTexts = Annotated[
    list[str] | None, typer.Option("--prompt", "-p", help="What to draw; may be given several times.")
]
PromptsFile = Annotated[Path | None, typer.Option("--prompts", help="A file of prompts, one a line, or TOML or JSON.")]
LoraFiles = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A LoRA; may be given several times.")
]
WordFiles = Annotated[
    list[Path] | None,
    typer.Option("--embedding", metavar="FILE", help="A new word, called as its file; may be given several times."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and grid.png.")]
Negative = Annotated[str | None, typer.Option("--negative", "-n", help="What not to draw.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the first picture of each prompt; default 0.")]
Count = Annotated[int | None, typer.Option("--count", help="Pictures of each prompt; seeds count up; default 1.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the sampler; default 20.")]
Cfg = Annotated[float | None, typer.Option("--cfg", help="Guidance scale; 1 is none, default 7.")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="ddim, euler_a, dpm++_2m_karras ...; default ddim.")]
Size = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Pixels, multiples of 8; default: the base's own.")
]
Strengths = Annotated[
    str | None, typer.Option("--strengths", metavar="0,0.5,1", help="Compare: each picture at these LoRA strengths.")
]
RegionsFile = Annotated[
    Path | None,
    typer.Option("--regions", metavar="FILE", help="Parts of the picture with prompts of their own; docs/regions.md."),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control", metavar="MODEL=IMAGE[:WEIGHT]", help="A ControlNet or T2I-Adapter; may be given several times."
    ),
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Further: apart, clip_skip, rescale, vae, batch_size, device, precision, prediction, zero_terminal_snr.",
    ),
]


def sample_command(
    base: Base,
    prompt: PromptTexts = None,
    prompts: PromptsFile = None,
    lora: LoraFiles = None,
    embedding: WordFiles = None,
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
    option: Further = None,
    json: Json = False,
) -> None:
    """Draw pictures with a base model and LoRA files.

    Writes PNG files with their settings inside, as A1111 reads them, and a labelled grid. Prompts may hold
    (emphasis:1.2), <lora:name:0.8> and BREAK; in a line of a file, options such as --n blurry --d 7 go before these.
    """
    if regions is not None and prompt is None and prompts is None and regions.suffix in (".toml", ".json"):
        prompts, regions = regions, None
    if regions is not None and prompt is None and prompts is None:
        raise LorasmithError(f"{regions}: add --prompt TEXT for the whole picture")
    if (prompt is None) == (prompts is None):
        raise LorasmithError("give either --prompt TEXT (it may be repeated) or --prompts FILE")
    width, height = (None, None) if size is None else read_size(size)
    table: dict[str, Any] = {
        "negative": negative, "seed": seed, "count": count, "steps": steps, "cfg": cfg, "sampler": sampler,
        "width": width, "height": height, "strengths": None if strengths is None else read_numbers(strengths),
        "embeddings": embedding, **scene(regions, control),
    }  # fmt: skip
    answer(draw(base, prompts or prompt or [], output, lora or [], (table, option or [])), json)


def scene(regions: Path | None, controls: list[str] | None) -> dict[str, Any]:
    """The settings that lead parts of a picture, as tables."""
    from lorasmith.sampling.control import Control
    from lorasmith.sampling.regions import read_regions

    found: dict[str, Any] = {"controls": [Control.read(text) for text in controls]} if controls else {}
    if regions is not None:
        found["regions"] = [region.model_dump() for region in read_regions(regions)]
    return found


def draw(
    base: str, prompts: list[str] | Path, folder: Path, loras: list[str], settings: tuple[dict[str, Any], list[str]]
) -> Any:
    """Check the settings, then draw."""
    from lorasmith.core.config import override, validate
    from lorasmith.sampling.loras import LoraUse
    from lorasmith.sampling.run import sample_to_folder
    from lorasmith.sampling.settings import SampleSettings

    table, further = settings
    chosen = override({key: value for key, value in table.items() if value is not None}, further)
    return sample_to_folder(
        base,
        prompts,
        folder,
        loras=[LoraUse.read(text) for text in loras],
        settings=validate(SampleSettings, chosen, "the options"),
        progress=console.progress_for(),
    )


def answer(result: Any, json: bool) -> None:
    """Say where the pictures are."""
    if json:
        console.answer({"folder": result.folder, "files": list(result.files), "grid": result.grid})
        return
    count = len(result.files)
    console.say(f"pictures: {count} in {result.folder} ({result.files[0].name}{' ...' if count > 1 else ''})")
    console.say(f"grid:     {result.grid}")


def read_size(text: str) -> tuple[int, int]:
    """`512x768`, or one number for both sides."""
    found = re.fullmatch(r"(\d+)(?:\s*[xX*]\s*(\d+))?", text.strip())
    if found is None:
        raise LorasmithError(f'--size "{text}": write WIDTHxHEIGHT, for example 512x768')
    return int(found[1]), int(found[2] or found[1])


def read_numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise LorasmithError(f'--strengths "{text}": write numbers with commas, for example 0,0.5,1') from None

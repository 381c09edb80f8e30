"""`lorasmith demo`: from nothing to a LoRA that visibly works, with what the package carries."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.train import Json
from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

PICTURE = "before-after.png"
SEEDS = (1, 2, 3, 4, 5, 6)


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the run and the picture.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Train a LoRA of a small character in about a minute, and draw a before/after picture. Needs no network.

    An earlier demo in the same folder is moved aside.
    """
    from lorasmith import api

    started = time.monotonic()
    folder = assets()
    if not (folder / "garp").is_dir():
        raise LorasmithError("the example images are not part of this installation; reinstall lorasmith")
    progress = console.progress_for()
    progress.say("training a LoRA of garp, a small character, on the embedded base model tiny-sd")
    places = [folder / "garp", folder / "others"]
    settings = [f'data.subsets.{i}.images="{place.as_posix()}"' for i, place in enumerate(places)]
    result = api.train(folder / "demo.toml", overrides=settings, output=output, overwrite=True, progress=progress)
    if not result.finished or result.file is None:
        raise typer.Exit(130)
    config = api.read_config(result.folder / "config.toml")
    picture = result.folder / PICTURE
    before_after(config.base, result.file, prompts(config), progress).save(picture)
    seconds = time.monotonic() - started
    if json:
        console.answer({"picture": picture, "file": result.file, "report": result.report, "seconds": seconds})
    console.say(farewell(result.file, picture, seconds))


def prompts(config: Any) -> list[str]:
    """What the picture shows: the prompts of the demo's previews."""
    return [str(prompt) for prompt in config.preview.prompts]


def before_after(base: str, lora: Path, wanted: list[str], progress: Progress) -> Image.Image:
    """The same prompts and seeds, on the base model above and with the LoRA file below."""
    from lorasmith.families.load import load
    from lorasmith.imaging.grid import grid
    from lorasmith.imaging.png import to_image
    from lorasmith.sampling.loras import load_lora
    from lorasmith.sampling.request import Request
    from lorasmith.sampling.sample import sample

    family = load(base)
    requests = [
        Request(prompt, seed=seed, cfg=5.0, width=128, height=128) for prompt, seed in zip(wanted, SEEDS, strict=False)
    ]
    before = sample(family, requests, progress=progress)
    adapters = load_lora(family, lora)
    after = sample(family, requests, progress=progress)
    adapters.detach()
    rows = [[to_image(p.pixels) for p in row] for row in (before, after)]
    return grid(rows, row_labels=["before", "after"], column_labels=wanted)


def farewell(lora: Path, picture: Path, seconds: float) -> str:
    """Where everything is and what to do next, as commands that can be copied."""
    program = "lorasmith" if shutil.which("lorasmith") else f"{sys.executable} -m lorasmith"
    return f"""
Done in {console.clock(seconds)}.

Draw with the LoRA:
    {program} sample --base tiny-sd --lora {lora} --prompt "a photo of garp, on a beach" --output pictures
See what is in it, and how the run went:
    {program} inspect {lora}
    {lora.parent / "report.html"}
Train your own: the four lines of TOML in README.md, or docs/tutorial.md.

Before and after: {picture.resolve()}"""

"""`lorasmith demo`: train a LoRA with the example images and base model of the package, and show its effect."""

from __future__ import annotations

import json
import shutil
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json
from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.core.recipes import FOLDER

if TYPE_CHECKING:
    from PIL import Image

PICTURE_NAME = "before-after.png"
SEEDS = (1, 2, 3, 4, 5, 6)
"""Seeds of the prompts in the picture, one each."""


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the run and the picture.")] = Path("demo"),
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps; with fewer it ends sooner and learns less.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Train a LoRA of a small character in one to two minutes, and draw a before/after picture. Needs no network.

    An earlier demo in the same folder is renamed.
    """
    from lorasmith import api

    started = time.monotonic()
    example_images = assets() / "garp"
    if not example_images.is_dir():
        raise LorasmithError("the example images are not part of this installation; reinstall lorasmith")
    progress = console.make_progress()
    progress.say("training a LoRA of garp, a small character, on the embedded base model tiny-sd")
    recipe = tomllib.loads((FOLDER / "garp.toml").read_text("utf-8"))
    prompts: list[str] = recipe["preview"]["prompts"]
    length = recipe["steps"] if steps is None else steps
    result = api.train(
        FOLDER / "garp.toml",
        overrides=[f"steps={length}", *preview_settings(prompts, length)],
        output=output,
        overwrite=True,
        progress=progress,
    )
    if not result.finished or result.file is None:
        raise typer.Exit(130)

    picture = result.folder / PICTURE_NAME
    before_and_after(result.folder / "previews", prompts, length).save(picture)
    seconds = time.monotonic() - started
    if json_output:
        console.print_json({"picture": picture, "file": result.file, "report": result.report, "seconds": seconds})
    console.say(next_steps(result.file, picture, seconds, recipe["preview"]["cfg"]))


def preview_settings(prompts: list[str], steps: int) -> list[str]:
    """Overrides of the config: one preview, after the last step, with a seed for each prompt."""
    lines = [f"{prompt} --d {seed}" for prompt, seed in zip(prompts, SEEDS, strict=True)]
    return [f"preview.prompts={json.dumps(lines)}", f"preview.every_steps={steps}"]


def before_and_after(previews: Path, prompts: list[str], step: int) -> Image.Image:
    """A grid of the previews of a run after `step`: above those of the base model, below those with the LoRA."""
    from PIL import Image

    from lorasmith.imaging.grid import grid

    rows: list[list[Image.Image]] = []
    for folder in (previews / "base", previews / f"step-{step:08d}"):
        rows.append([Image.open(folder / f"{i:02d}.png").convert("RGB") for i in range(len(prompts))])
    return grid(rows, row_labels=["before", "after"], column_labels=prompts)


def command_name() -> str:
    """How the program is started in this shell: by its name if that is found, else by the path beside Python."""
    if shutil.which("lorasmith"):
        return "lorasmith"
    beside_python = Path(sys.executable).with_name("lorasmith")
    if not beside_python.is_file():
        return f"{sys.executable} -m lorasmith"
    # `make demo` is run in the folder that holds .venv
    here = Path.cwd()
    return str(beside_python.relative_to(here) if beside_python.is_relative_to(here) else beside_python)


def next_steps(lora: Path, picture: Path, seconds: float, cfg: float) -> str:
    """The closing message: where the files are, and commands to copy. `cfg`: the guidance scale of the previews."""
    program = command_name()
    hint = "" if program == "lorasmith" else "\nThe short name works after: source .venv/bin/activate"
    return f"""
Done in {console.format_duration(seconds)}.

Generate pictures with the LoRA:
    {program} sample --base tiny-sd --lora {lora} --prompt "a photo of garp, on a beach" --cfg {cfg:g} --output pictures
Show what is in the LoRA file, and how the training went:
    {program} inspect {lora}
    {lora.parent / "report.html"}
Make a config for your own pictures (five questions), and train it:
    {program} new
See the runs in the browser, where lorasmith[studio] is installed:
    {program} studio .{hint}

Before and after: {picture.resolve()}"""

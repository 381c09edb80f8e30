"""Whether a condition steers: `python -m tools.tiny_base.gate_layout --seeds 0 1 2 --to layout.json`.

Trains examples/layout.toml, draws garp with six layouts on four backgrounds, each with the layout and without, and
finds in the pictures where the subject is. Two numbers: the mean overlap (intersection over union) of its box with that
of the layout, and the share of pictures that are where the layout says (`is_placed`). `--pictures FILE` draws the
pictures of the first seed with their boxes; `--lora FILE` measures a LoRA that is trained already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lorasmith.core.registry import load_plugins
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.imaging.grid import grid
from lorasmith.imaging.png import save_image, to_image
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SIZE = 128
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
BOXES: dict[str, Box] = {
    "left": (4, 36, 60, 92),
    "right": (68, 36, 124, 92),
    "top": (36, 4, 92, 60),
    "bottom": (36, 68, 92, 124),
    "large": (14, 14, 114, 114),
    "small": (44, 44, 84, 84),
}
BACKGROUNDS = ("a red", "a blue", "a green", "a yellow")
OTHERS = ("lion", "cow", "rocket", "house")
LARGE, SMALL = 75, 56
"""Sides in pixels: `large` is at least the first, `small` at most the second."""
DIFFERENCE = 0.94
"""Of the three colours together, -1..1 each: a pixel that differs more from the background is the subject's."""


@dataclass(frozen=True)
class Case:
    """A picture to be drawn: of what, on which background, with which of the layouts."""

    subject: str
    background: str
    layout: str
    seed: int


def cases(subjects: tuple[str, ...]) -> list[Case]:
    """Every layout on every background; the subjects take turns."""
    return [
        Case(subjects[index % len(subjects)], background, layout, 7 * index + 1)
        for layout in BOXES
        for index, background in enumerate(BACKGROUNDS)
    ]


def box_of(pixels: Tensor) -> Box | None:
    """The box of what differs from the edge of a picture (3, H, W) in -1..1; None if nothing does.

    The background is the median colour of the edge. One percent of the pixels at each side is left out, so that specks
    do not count.
    """
    edge = torch.cat([pixels[:, :3].flatten(1), pixels[:, -3:].flatten(1), pixels[..., :3].flatten(1)], 1)
    edge = torch.cat([edge, pixels[..., -3:].flatten(1)], 1)
    background = edge.median(1).values[:, None, None]
    rows, columns = ((pixels - background).abs().sum(0) > DIFFERENCE).nonzero(as_tuple=True)
    if len(rows) < 50:
        return None
    ends = torch.tensor([0.01, 0.99])
    left, right = columns.float().quantile(ends).tolist()
    top, bottom = rows.float().quantile(ends).tolist()
    return left, top, right + 1, bottom + 1


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def is_placed(layout: str, box: Box) -> bool:
    """Whether the centre is in the half of the layout, or the size is that of `large` or `small`."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
    return {
        "left": x < SIZE / 2,
        "right": x > SIZE / 2,
        "top": y < SIZE / 2,
        "bottom": y > SIZE / 2,
        "large": side >= LARGE,
        "small": side <= SMALL,
    }[layout]


def draw(family: Family, drawn: list[Case], layouts: Path | None) -> Tensor:
    """(n, 3, SIZE, SIZE) in -1..1. `layouts`: the folder of their pictures; None: without."""
    requests = [
        Request(
            f"a photo of {case.subject}, on {case.background} background",
            seed=case.seed,
            cfg=5.0,
            width=SIZE,
            height=SIZE,
            conditions={"layout": layouts / f"{case.layout}.png"} if layouts else {},
        )
        for case in drawn
    ]
    return torch.stack([picture.pixels for picture in sample(family, requests, batch_size=8)])


def score(pixels: Tensor, drawn: list[Case], eye: Judge) -> dict[str, float]:
    """The mean overlap, the share of pictures that are placed, and the share in which the judge sees the subject."""
    found = [(case, box_of(picture)) for case, picture in zip(drawn, pixels, strict=True)]
    overlaps = [overlap(box, BOXES[case.layout]) if box else 0.0 for case, box in found]
    placed = [box is not None and is_placed(case.layout, box) for case, box in found]
    subjects = [case.subject.removeprefix("a ") for case in drawn]
    return {
        "overlap": round(sum(overlaps) / len(found), 3),
        "placed": round(sum(placed) / len(found), 3),
        "subject": round(eye.concept(pixels).share(subjects), 3),
    }


def measure(file: Path, pictures: Path | None = None) -> dict[str, dict[str, float]]:
    """The scores of garp with and without layouts, and of other things with them."""
    load_plugins(["layout"])
    family, eye = load("tiny-sd"), Judge.load()
    loras = Loras(family)
    with tempfile.TemporaryDirectory() as folder, loras.attached([LoraUse(file)]):
        for name, box in BOXES.items():
            picture = Image.new("L", (SIZE, SIZE))
            ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
            picture.save(Path(folder) / f"{name}.png")
        garp, others = cases(("garp",)), cases(tuple(f"a {name}" for name in OTHERS))
        steered = draw(family, garp, Path(folder))
        free = draw(family, garp, None)
        things = draw(family, others, Path(folder))
    if pictures is not None:
        save_image(picture_grid(steered, free, things), pictures)
    return {
        "garp with layout": score(steered, garp, eye),
        "garp without": score(free, garp, eye),
        "other things with layout": score(things, others, eye),
    }


def picture_grid(steered: Tensor, free: Tensor, things: Tensor) -> Image.Image:
    """A column for each layout, whose box is drawn: garp with it on two backgrounds, garp without, another thing with
    it. The three groups are (n, 3, SIZE, SIZE) in -1..1, in the order of `cases`."""
    # the index is that of the background
    rows = [(steered, 0), (steered, 1), (free, 1), (things, 2)]
    labels = ["garp with layout", "garp with layout", "garp without", "other thing with layout"]
    pictures = [
        [with_box(group[column * len(BACKGROUNDS) + index], box) for column, box in enumerate(BOXES.values())]
        for group, index in rows
    ]
    return grid(pictures, row_labels=labels, column_labels=list(BOXES))


def with_box(pixels: Tensor, box: Box) -> Image.Image:
    """A picture with the outline of a box."""
    picture = to_image(pixels)
    ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="white")
    return picture


def train(seed: int, output: Path) -> dict[str, Any]:
    """Train the example through the command line; what it answers."""
    path = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [
        sys.executable,
        "-m",
        "lorasmith",
        "train",
        "examples/layout.toml",
        f"seed={seed}",
        "log.tensorboard=false",
    ]
    command += ["preview.every_steps=1000", "--output", str(output), "--overwrite", "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gate-layout", help="the folder of the runs")
    parser.add_argument("--pictures", type=Path, help="a PNG with the pictures of the first seed and their boxes")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))
    found: dict[str, Any] = {}
    for seed in options.seeds:
        file = options.lora or Path(train(seed, options.output.resolve() / str(seed))["file"])
        found[f"seed {seed}"] = measure(file, options.pictures if seed == options.seeds[0] else None)
        print(json.dumps({seed: found[f"seed {seed}"]}), flush=True)
    if options.to is not None:
        options.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

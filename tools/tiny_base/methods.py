"""Methods of training compared on the tiny base: `python -m tools.tiny_base.methods --work runs/methods`.

Each method of `method_list` trains each of three concepts (garp, and two that `tools.tiny_base.fusion` uses) with each
of three seeds, all from the demo's recipe. After a run the judge looks at pictures of the concept and of other things,
and the latter are compared with the base's at the same seeds. The loss on pictures that were not trained on, at fixed
noise, is taken every 25 steps.

A run is a line in `rows-*.jsonl`, and is not made again. Several processes can work in one folder: each run is claimed
by a file in `claims/`, which stays if the process is killed (remove the folder before the next start). `--table` prints
the results, `--costs` measures the CPU time of a step of each method.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import lorasmith
from lorasmith.core.devices import pick_device
from lorasmith.core.progress import Progress
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.imaging.png import to_image
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from tools.tiny_base.gate_lora import PLACES, other_thing, picture_of
from tools.tiny_base.method_list import METHODS, Method, merged
from tools.tiny_base.method_table import print_tables

MEANS = {"garp": "garp", "blib": "lion", "quop": "house"}
"""The concepts, by their trigger, and what the judge calls them. Two are things that the base knows by another name."""
BACKGROUNDS = ("a red background", "a blue background", "a white background", "a green background", "grass", "a beach")
GARP = Path("src/lorasmith/assets/garp")
COLOURS = {"orange": (255, 140, 0), "purple": (128, 0, 160), "brown": (120, 72, 30), "black": (20, 20, 20)}
HELD_OUT_SEEDS = (201, 202)
LOSS_EVERY = 25
"""Steps between two losses on held-out pictures."""
BATCH = 48
"""Pictures that are drawn at once."""
SEEDS = 6
"""Pictures of a concept at each place, in a round."""


def prepare(family: Family, work: Path, concepts: Collection[str] = tuple(MEANS)) -> None:
    """The pictures of the concepts: those to train on, those held out, and the base's pictures of other things."""
    for name in concepts:
        meaning = MEANS[name]
        held_out = work / "held-out" / name
        if held_out.exists():
            continue
        for folder in (held_out, work / "pictures" / name):
            folder.mkdir(parents=True, exist_ok=True)
        if name == "garp":
            on_new_backgrounds(held_out)
            shutil.copytree(GARP, work / "pictures" / name, dirs_exist_ok=True)
            continue
        for folder, seeds in ((work / "pictures" / name, (101, 102)), (held_out, HELD_OUT_SEEDS)):
            places = [(where, seed) for where in BACKGROUNDS for seed in seeds][: 12 if seeds[0] == 101 else 6]
            drawn = sample(family, [picture_of(f"a photo of a {meaning}, on {where}", seed) for where, seed in places])
            for index, (picture, (where, _)) in enumerate(zip(drawn, places, strict=True)):
                to_image(picture.pixels).save(folder / f"{index:02}.png")
                (folder / f"{index:02}.txt").write_text(f"a photo of {name}, on {where}\n", "utf-8")


def on_new_backgrounds(folder: Path) -> None:
    """Garp, cut out by its masks, mirrored, on colours that no training picture has."""
    for index, (colour, pixels) in enumerate(COLOURS.items()):
        number = f"{3 * index + 1:02}"
        cut = Image.open(GARP / f"{number}.png").convert("RGB")
        mask = Image.open(GARP / "masks" / f"{number}.png").convert("L")
        picture = Image.composite(cut, Image.new("RGB", cut.size, pixels), mask)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"a photo of garp, on a {colour} background\n", "utf-8")


def config(method: Method, concept: str, seed: int, work: Path, output: Path) -> dict[str, Any]:
    """The recipe with what the method changes."""
    table = method.start()
    changes = dict(method.changes)
    subset, others = table["data"]["subsets"]
    pictures, repeats = work / "pictures" / concept, changes.pop("repeats", 2)
    if method.pictures is not None:
        pictures, repeats = first_pictures(pictures, method.pictures, work / "first" / output.name, repeats)
    subset |= {"images": str(pictures), "repeats": repeats}
    if method.masks:
        subset["masks"] = str(pictures / "masks")
    others["preserve"] = method.preserve
    table["data"]["subsets"] = [subset, others] if method.others else [subset]
    table["data"]["validation"] = {"images": str(work / "held-out" / concept)}
    table["validation"] = {"every_steps": LOSS_EVERY, "every_epochs": None}
    table |= {"name": "lora", "trigger": [concept], "seed": seed, "output": str(output)}
    return merged(table, changes | {"log": {"tensorboard": False}})


def first_pictures(folder: Path, count: int, to: Path, repeats: int) -> tuple[Path, int]:
    """A folder with copies of the first `count` pictures of `folder` and their captions, and how often to repeat them,
    for about as many views as all pictures with `repeats`."""
    found = sorted(folder.glob("*.png"))
    to.mkdir(parents=True, exist_ok=True)
    for picture in found[:count]:
        for file in (picture, picture.with_suffix(".txt")):
            shutil.copy(file, to / file.name)
    return to, round(repeats * len(found) / count)


class Eye:
    """What is drawn of a LoRA, and how it is judged."""

    def __init__(self, family: Family, work: Path) -> None:
        self.family, self.judge, self.work = family, Judge.load().to(family.device), work
        self._of_base: dict[tuple[int, float], Tensor] = {}

    def pictures(self, requests: list[Request]) -> Tensor:
        """(n, 3, 128, 128) in -1..1."""
        return torch.stack([picture.pixels for picture in sample(self.family, requests, batch_size=BATCH)])

    def of_others(self, rounds: int, cfg: float) -> tuple[list[Request], list[str]]:
        """Prompts of other things, without a trigger, and what they show."""
        things = [other_thing(seed) for seed in range(24 * rounds)]
        requests = [picture_of(prompt, seed, cfg) for seed, (prompt, _, _) in enumerate(things)]
        return requests, [name for _, name, _ in things]

    def base(self, rounds: int, cfg: float) -> Tensor:
        """The base's pictures of other things, drawn once."""
        if (rounds, cfg) not in self._of_base:
            self._of_base[rounds, cfg] = self.pictures(self.of_others(rounds, cfg)[0])
        return self._of_base[rounds, cfg]

    def score(self, file: Path, concept: str, rounds: int, cfg: float) -> dict[str, float]:
        """Shares and probabilities of what the judge should see, and how far the other pictures moved. `cfg`: the
        guidance scale of the pictures."""
        before = self.base(rounds, cfg)
        seeds = range(SEEDS * rounds)
        about = [picture_of(f"a photo of {concept}, {where}", seed, cfg) for where in PLACES for seed in seeds]
        places = [place for place in PLACES.values() for _ in seeds]
        requests, names = self.of_others(rounds, cfg)
        with Loras(self.family).attached([LoraUse(file)]):
            pixels = self.pictures([*about, *requests])
        seen, where = self.judge.concept(pixels), self.judge.background(pixels[: len(about)])
        index = self.judge.concepts.index(MEANS[concept])
        count = len(about)
        return {
            "likeness": seen.table[:count, index].mean().item(),
            "found": sum(name == MEANS[concept] for name in seen.names[:count]) / count,
            "background": where.share(places),
            "others": sum(a == b for a, b in zip(seen.names[count:], names, strict=True)) / len(names),
            "drift": (pixels[count:] - before).abs().mean().item() / 2,
        }


def run(method: Method, concept: str, seed: int, eye: Eye, keep: bool = False) -> dict[str, Any]:
    """Train, judge, and remove the files unless `keep`."""
    output = eye.work / "runs" / name_of(method, concept, seed)
    table = config(method, concept, seed, eye.work, output)
    table["device"] = str(eye.family.device)
    result = lorasmith.train(table, overwrite=True, progress=Progress())
    lines = (output / "events.jsonl").read_text().splitlines()
    losses = {e["step"]: e["loss"] for e in map(json.loads, lines) if e["event"] == "validation"}
    if result.file is None:
        raise SystemExit("stopped before the end of a run")
    scores = eye.score(Path(result.file), concept, method.rounds, method.cfg)
    if not keep:
        shutil.rmtree(output)
    return {
        "method": method.name,
        "concept": concept,
        "seed": seed,
        "steps": table["steps"],
        "train_seconds": round(result.seconds, 2),
        "held_out": {str(step): round(loss, 5) for step, loss in losses.items()},
        **{name: round(value, 4) for name, value in scores.items()},
    }


def jobs(names: list[str], seeds: list[int] | None = None) -> Iterator[tuple[Method, str, int]]:
    """All runs in their order. `seeds`: instead of those of the methods."""
    for name in names:
        method = METHODS[name]
        for seed in range(method.seeds) if seeds is None else seeds:
            for concept in method.concepts:
                yield method, concept, seed


def name_of(method: Method, concept: str, seed: int) -> str:
    """The name of a run's files."""
    return f"{method.name} {concept} {seed}".replace(" ", "-").replace(":", "").replace(",", "")


def claim(work: Path, method: Method, concept: str, seed: int) -> bool:
    """Whether this process is the one that makes the run."""
    (work / "claims").mkdir(exist_ok=True)
    try:
        (work / "claims" / name_of(method, concept, seed)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def read_rows(work: Path) -> list[dict[str, Any]]:
    """The runs that are made. A last line that was cut off does not count."""
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for file in sorted(work.glob("rows-*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["method"], row["concept"], row["seed"]] = row
    return list(rows.values())


def costs(names: list[str], eye: Eye) -> None:
    """CPU seconds of a step of each method, relative to the first one's; runs of 12 steps, minus runs of 2. The first
    method comes twice, since its first run fills the caches."""
    seconds: dict[str, float] = {}
    for name in [names[0], *names]:
        spent: list[float] = []
        for steps in (2, 12):
            method = replace(METHODS[name], changes=merged(METHODS[name].changes, {"steps": steps}))
            table = config(method, "garp", 0, eye.work, eye.work / "runs" / "cost")
            table["data"].pop("validation")
            table.pop("validation")
            started = time.process_time()
            lorasmith.train(table, overwrite=True)
            spent.append(time.process_time() - started)
        seconds[name] = (spent[1] - spent[0]) / 10
        print(f"{seconds[name]:.3f} CPU-s  x {seconds[name] / next(iter(seconds.values())):.2f}  {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="METHOD", default=list(METHODS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prepare", action="store_true", help="only draw the pictures to train on")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone, instead of those of each method")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the runs")
    parser.add_argument("--table", action="store_true", help="only print the results")
    parser.add_argument("--costs", action="store_true", help="only measure the CPU time of a step")
    options = parser.parse_args()
    if options.table:
        print_tables(read_rows(options.work))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("LORASMITH_CACHE", str(options.work / "cache"))
    torch.set_num_threads(1)
    family = load("tiny-sd", device=pick_device(options.device))
    prepare(family, options.work, {concept for name in options.only for concept in METHODS[name].concepts})
    eye = Eye(family, options.work)
    if options.prepare:
        return
    if options.costs:
        costs(options.only, eye)
        return
    made = {(row["method"], row["concept"], row["seed"]) for row in read_rows(options.work)}
    started = time.monotonic()
    for method, concept, seed in jobs(options.only, options.seeds):
        if (method.name, concept, seed) in made or not claim(options.work, method, concept, seed):
            continue
        row = run(method, concept, seed, eye, options.keep) | {"device": eye.family.device.type}
        with (options.work / f"rows-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        short = {key: row[key] for key in ("likeness", "found", "others", "drift", "train_seconds")}
        print(f"{time.monotonic() - started:6.1f} s  {method.name} | {concept} | {seed}: {short}", flush=True)


if __name__ == "__main__":
    main()

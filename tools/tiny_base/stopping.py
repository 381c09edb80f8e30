"""What criteria that end a run early save, and what they cost: `python -m tools.tiny_base.stopping`.

Each run has the fixed length, and writes a file every few steps. With a constant learning rate, the file of step N is
the one that a run that is ended at step N writes, so that one run answers for all criteria (stopping_rules.py). The
judge looks at the file of every 75th step, and at that of the last one.

Two cases: garp from ten images beside regularisation images, and garp from three images alone, which overfits quickly.
Four further images of garp are held out. Seeds choose the images too. Each run is a process of its own; results are
added to `--to` as they come, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from lorasmith.training.output.best import losses_by_step
from lorasmith.training.output.report.record import read
from tools.tiny_base.gate_lora import OTHERS, PLACES, other_thing, picture_of, train
from tools.tiny_base.recipe import unet_recipe
from tools.tiny_base.seed_runs import RESULT, read_rows, run_jobs
from tools.tiny_base.stopping_rules import table_of

PICTURES = Path("src/lorasmith/assets/garp")
CASES = {"ten images": 10, "three images": 3}
"""Images of garp that are trained on."""
HELD_OUT = 4
BATCH_SIZE = 4
JUDGE_EVERY = 75
VALIDATE_EVERY = 25
MEASURE_EVERY = 5
"""Steps between two measurements of DVAR."""
SEEDS = 3
"""Pictures of garp at each place."""


def pictures_of(case: str, seed: int, folder: Path) -> None:
    """Copy the images of a case, with their captions, into `train` and `held-out`."""
    images = sorted(PICTURES.glob("*.png"))
    random.Random(seed).shuffle(images)
    parts = {"held-out": images[:HELD_OUT], "train": images[HELD_OUT : HELD_OUT + CASES[case]]}
    for name, part in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in part:
            for file in (image, image.with_suffix(".txt")):
                shutil.copy(file, folder / name / file.name)


def config_of(case: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The config of a run: the recipe with a constant learning rate and all that is measured."""
    table = unet_recipe()
    garp, others = table["data"]["subsets"]
    garp["images"] = str(folder / "train")
    table["data"] |= {
        "subsets": [garp, others | {"hold_out": False}] if case == "ten images" else [garp],
        "batch_size": BATCH_SIZE,
        "validation": {"images": str(folder / "held-out")},
    }
    # a threshold that is never passed: which windows would have ended the run is decided afterwards
    measure = {"kind": "dvar", "stop": False, "every_steps": MEASURE_EVERY, "threshold": 1e-12, "draws": options.draws}
    return table | {
        "seed": seed,
        "steps": options.steps,
        "device": options.device,
        "threads": 1,
        "log": {"tensorboard": False},
        "lr_schedule": {"kind": "constant"},
        "validation": {"every_steps": VALIDATE_EVERY, "every_epochs": None},
        "export": {"every_steps": JUDGE_EVERY, "dtype": "fp16"},
        "hooks": [measure],
    }


class Eye:
    """Draws with a LoRA and judges: garp at four places, twelve pictures, and each of twelve other things once."""

    def __init__(self, family: Family) -> None:
        self.family, self.judge = family, Judge.load().to(family.device)
        # the seeds of a place are neighbours, so that every other picture is a half with all places
        self.requests = [picture_of(f"a photo of garp, {where}", seed) for where in PLACES for seed in range(SEEDS)]
        self.requests += [picture_of(other_thing(seed)[0], seed) for seed in range(len(OTHERS))]
        self.base = self.draw(self.requests[SEEDS * len(PLACES) :])
        self.last = self.base
        """The pictures of the last look."""

    def draw(self, requests: list[Request]) -> Tensor:
        """(n, 3, 128, 128) in -1..1."""
        return torch.stack([drawn.pixels for drawn in sample(self.family, requests, batch_size=12)])

    def look(self, file: Path, strength: float = 1.0) -> dict[str, list[float]]:
        """For each picture of garp, whether it is found and with which probability; for each of another thing, whether
        it is found and how far its pixels moved from the base's (0 to 1)."""
        with Loras(self.family).attached([LoraUse(file, strength)]):
            pixels = self.last = self.draw(self.requests)
        seen, count = self.judge.concept(pixels), SEEDS * len(PLACES)
        index = self.judge.concepts.index("garp")
        moved = (pixels[count:] - self.base).abs().mean((1, 2, 3)) / 2
        return {
            "found": [float(name == "garp") for name in seen.names[:count]],
            "likeness": [round(value, 4) for value in seen.table[:count, index].tolist()],
            "others": [float(a == b) for a, b in zip(seen.names[count:], OTHERS, strict=True)],
            "drift": [round(value, 4) for value in moved.tolist()],
        }


def steps_to_judge(steps: int) -> list[int]:
    """The steps after which the judge looks: every 75th, and the last one of a run of `steps`."""
    return sorted({*range(JUDGE_EVERY, steps + 1, JUDGE_EVERY), steps})


def one(case: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one case with one seed."""
    torch.set_num_threads(1)
    folder = options.runs / f"{case}-{seed}".replace(" ", "-")
    pictures_of(case, seed, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(config_of(case, seed, folder, options)))
    answer = train(config, folder / "run")
    record = read(folder / "run")

    device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
    eye = Eye(load("tiny-sd", device=device))
    judged: dict[str, dict[str, list[float]]] = {}
    for step in steps_to_judge(options.steps):
        file = folder / "run" / f"garp-{step:06d}.safetensors"
        judged[str(step)] = eye.look(file if file.is_file() else Path(answer["file"]))
    losses = {str(step): list(loss.by_image) for step, loss in losses_by_step(record.of("validation")).items()}
    fixed = [[event["step"], event["loss"]] for event in record.of("fixed_loss")]
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(answer["file"], options.keep / f"{folder.name}.safetensors")
    shutil.rmtree(folder)
    seconds = round(answer["seconds"], 1)
    return {"case": case, "seed": seed, "seconds": seconds, "judged": judged, "held_out": losses, "fixed_loss": fixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/stopping"))
    parser.add_argument("--to", type=Path, default=Path("stopping.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="the fixed length")
    parser.add_argument("--draws", type=int, default=1, help="how often DVAR measures its batch")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, help="folder for the last file of each run")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "SEED"), help="this run alone; prints its result")
    options = parser.parse_args()
    if options.only:
        print(RESULT + json.dumps(one(options.only[0], int(options.only[1]), options)), flush=True)
        return
    rows = read_rows(options.to)
    done = {(row["case"], row["seed"]) for row in rows}
    wanted = [(case, seed) for seed in range(options.seeds) for case in options.cases if (case, seed) not in done]

    given = ["--device", options.device, "--runs", options.runs, "--steps", options.steps]
    given += ["--draws", options.draws, *(("--keep", options.keep) if options.keep else ())]
    run_jobs("tools.tiny_base.stopping", wanted, given, rows, options.to, options.jobs)
    print(table_of(rows))


if __name__ == "__main__":
    main()

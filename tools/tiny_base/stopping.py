"""What criteria that end a run early save, and what they cost: `python -m tools.tiny_base.stopping`.

Each run has the fixed length, and writes a file every few steps. With a constant learning rate, the file of step N is
the one that a run that is ended at step N writes, so that one run answers for all criteria. The judge looks at the
files at which DVAR, patience and `[best]` would have ended, and at the last one.

Two cases: garp from ten images beside regularisation images, and garp from three images alone, which overfits quickly.
Four further images of garp are held out. Seeds choose the images too. Each run is a process of its own; results are
added to `--to` as they come, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tomllib
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.intervals import student_interval
from lorasmith.core.recipes import FOLDER as RECIPES
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.training.hooks.stop_dvar import variance_ratio
from lorasmith.training.hooks.stop_patience import worse_than_best
from lorasmith.training.output.best import losses_by_step
from lorasmith.training.output.report.record import Record, read
from tools.tiny_base.gate_lora import score, train
from tools.tiny_base.seed_runs import RESULT, read_rows, run_jobs

RECIPE = RECIPES / "garp.toml"
PICTURES = Path("src/lorasmith/assets/garp")
CASES = {"ten images": 10, "three images": 3}
"""Images of garp that are trained on."""
HELD_OUT = 4
BATCH_SIZE = 4
EXPORT_EVERY = 20
VALIDATE_EVERY = 20
MEASURE_EVERY = 5
"""Steps between two measurements of DVAR."""
THRESHOLD = 0.15
DVAR_WINDOWS = {"DVAR, window 60 (300 steps)": 60, "DVAR, window 20 (100 steps)": 20}
PATIENCE = 5
END = "fixed length"
QUALITY = ("garp", "its_background", "others")


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
    table = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    del table["preview"]
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
        "export": {"every_steps": EXPORT_EVERY, "dtype": "fp16"},
        "hooks": [measure],
    }


def stops_of(record: Record) -> dict[str, int]:
    """The step with which each criterion ends a run. One that does not end it has the fixed length."""
    length = record.steps
    stops = {END: length}
    for name, window in DVAR_WINDOWS.items():
        stops[name] = min(dvar_stop(record, window), length)
    stops["patience"] = min(patience_stop(record), length)
    if record.best is not None:
        stops["best"] = int(record.best["best_step"])
    return stops


def dvar_stop(record: Record, window: int) -> int:
    """The step with which DVAR ends a run: the one after that in which it says so."""
    measured = [(int(event["step"]), float(event["loss"])) for event in record.of("fixed_loss")]
    for count in range(1, len(measured) + 1):
        ratio = variance_ratio([loss for _, loss in measured[:count]], window)
        if ratio is not None and ratio < THRESHOLD:
            return measured[count - 1][0] + 1
    return record.steps


def patience_stop(record: Record) -> int:
    """The step with which patience ends a run: the one after that in which it says so."""
    losses = [loss for step, loss in losses_by_step(record.of("validation")).items() if step > 0]
    for count in range(1, len(losses) + 1):
        if worse_than_best(losses[:count])[0] >= PATIENCE:
            return losses[count - 1].step + 1
    return record.steps


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
    family, judge = load("tiny-sd", device=device), Judge.load()
    judged: dict[int, dict[str, float]] = {}
    stops = stops_of(record)
    for step in stops.values():
        # the next file that was written
        written = min(options.steps, -(-step // EXPORT_EVERY) * EXPORT_EVERY)
        if written not in judged:
            file = folder / "run" / f"garp-{written:06d}.safetensors"
            path = file if file.is_file() else Path(answer["file"])
            with Loras(family).attached([LoraUse(path, 1.0)]):
                judged[written] = score(family, judge, options.rounds)
        judged[step] = judged[written]
    losses = {step: loss.mean for step, loss in losses_by_step(record.of("validation")).items()}
    shutil.rmtree(folder)
    found = {name: {"step": step, **judged[step]} for name, step in stops.items()}
    return {"case": case, "seed": seed, "seconds": round(answer["seconds"], 1), "stops": found, "held_out": losses}


def table_of(rows: list[dict[str, Any]]) -> str:
    """A line for each case and criterion: the views saved, and quality beside that of the fixed length, in percent."""
    lines = [
        "| case | ended by | step | views saved | garp | its background | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        own = [row["stops"] for row in rows if row["case"] == case]
        lines += [f"| {case} | {name} | {' | '.join(cells_of(own, name))} |" for name in (own[0] if own else ())]
    return "\n".join(lines)


def cells_of(own: list[dict[str, Any]], name: str) -> list[str]:
    """The cells of a criterion, over the runs of a case."""
    runs = [run for run in own if name in run]
    steps = [run[name]["step"] for run in runs]
    saved = statistics.mean(100 * (1 - run[name]["step"] / run[END]["step"]) for run in runs)
    cells = [f"{statistics.mean(steps):.0f} ({min(steps)} - {max(steps)})", f"{saved:.0f} %"]
    for quality in QUALITY:
        mean = 100 * statistics.mean(run[name][quality] for run in runs)
        cells.append(f"{mean:.0f}" if name == END else f"{mean:.0f}; {change(runs, name, quality)}")
    return cells


def change(runs: list[dict[str, Any]], name: str, quality: str) -> str:
    """How much higher a share is than that of the fixed length, seed by seed, with Student's 90 % interval if there are
    several seeds."""
    differences = [100 * (run[name][quality] - run[END][quality]) for run in runs if name in run]
    interval = student_interval(differences)
    if len(differences) < 2:
        return f"{interval.mean:+.0f}"
    return f"{interval.mean:+.0f} ({interval.low:+.0f} to {interval.high:+.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/stopping"))
    parser.add_argument("--to", type=Path, default=Path("stopping.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="the fixed length")
    parser.add_argument("--rounds", type=int, default=4, help="of 48 pictures, for each file that is judged")
    parser.add_argument("--draws", type=int, default=4, help="how often DVAR measures its batch")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "SEED"), help="this run alone; prints its result")
    options = parser.parse_args()
    if options.only:
        print(RESULT + json.dumps(one(options.only[0], int(options.only[1]), options)), flush=True)
        return
    rows = read_rows(options.to)
    done = {(row["case"], row["seed"]) for row in rows}
    wanted = [(case, seed) for seed in range(options.seeds) for case in options.cases if (case, seed) not in done]

    given = ["--device", options.device, "--runs", options.runs, "--steps", options.steps, "--rounds", options.rounds]
    given += ["--draws", options.draws]
    run_jobs("tools.tiny_base.stopping", wanted, given, rows, options.to, options.jobs)
    print(table_of(rows))


if __name__ == "__main__":
    main()

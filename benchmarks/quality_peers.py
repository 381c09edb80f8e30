"""Quality beside other trainers, with their own code, on the tiny base.

    python -m benchmarks.quality_peers --clones FOLDER [--work runs/peers] [--to peers.jsonl] [--jobs 2]

`--clones` holds clones of the other programs (benchmarks/peers/code.py). Each program trains garp with its default
settings and three seeds; then with each setting of one small search, the same for all, one seed each; then with the
best of these and three seeds that the search had not. The judge looks at pictures that our sampler draws from each
program's own file. Each training is a process of its own; results are added to `--to`, and those that are there are not
made again. Prints the tables of docs/measurements/quality.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.peers import code as peer_code
from benchmarks.peers.judging import Prompts, draw, measure
from benchmarks.peers.pool import Limits, Pool, Row, Task, read_rows
from benchmarks.peers.recipes import LRS, PEERS, RANKS, Case, start, write_data
from benchmarks.peers.table import NUMBERS, differences_table, mean_of, means_table, of_setting, search_table
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.imaging.grid import grid
from lorasmith.imaging.png import to_image
from lorasmith.sampling.loras import Loras, LoraUse

BASE_FILE = "base.pt"
WAIT = 300
"""Seconds that a process waits for the pictures of the base."""
BASE = Case("no LoRA", "base", 0)
SEEDS = (1, 2, 3)
SEARCH_SEED = 100
SHOWN = (0, 7, 13, 19, 24, 27, 29, 31)
"""Pictures of one round in a row of the grid: garp on four backgrounds, then a dog, a lion, a house, a pizza."""


@dataclass(frozen=True)
class Settings:
    """What all trainings of a call share."""

    work: Path
    code: Path
    steps: int
    rounds: int
    device: str


# One training, in a process of its own


def device_of(settings: Settings) -> str:
    """The device of `auto`, for programs that know no such word."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def judged(files: Sequence[Path], word: str, settings: Settings, picture: Path | None = None) -> dict[str, Any]:
    """The numbers of a LoRA of garp; a row of its pictures as `picture`."""
    prompts = Prompts("garp", settings.rounds)
    family, eye = load("tiny-sd", device=device_of(settings)), Judge.load()
    base = base_pictures(settings)
    training = read_pictures(settings.work / "data" / "instance")
    numbers, pixels = measure(Loras(family), eye, [LoraUse(file) for file in files], prompts, word, base, training)
    if picture is not None:
        # one round has 6 seeds a place; several rounds have them in the same order
        places = [index * settings.rounds if index < 24 else 24 * settings.rounds + index - 24 for index in SHOWN]
        grid([[to_image(pixels[index]) for index in places]]).save(picture)
    return numbers


def read_pictures(folder: Path) -> torch.Tensor:
    """The pictures of a folder as (n, 3, 128, 128) in -1..1."""
    import numpy as np

    arrays: list[Any] = []
    for file in sorted(folder.glob("*.png")):
        arrays.append(np.asarray(Image.open(file).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_base(settings: Settings, _on_cpu: bool) -> dict[str, Any]:
    """The pictures of the other things without a LoRA; what the judge finds in all of them."""
    family, eye = load("tiny-sd", device=device_of(settings)), Judge.load()
    requests, names = Prompts("garp", settings.rounds).of("garp")
    pixels = draw(family, requests)
    half = len(requests) // 2
    building = settings.work / "base.pt.building"
    torch.save(pixels[half:].clone(), building)
    building.rename(settings.work / BASE_FILE)
    right = [int(seen == name) for seen, name in zip(eye.concept(pixels).names, names, strict=True)]
    zeros = [0.0] * half
    return {"likeness": right[:half], "others": right[half:], "drift_features": zeros, "drift_pixels": zeros}


def base_pictures(settings: Settings) -> torch.Tensor:
    """What `draw_base` leaves, which another process may still be at."""
    file, end = settings.work / BASE_FILE, time.monotonic() + WAIT
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.5)
    return torch.load(file)


def train(case: Case, settings: Settings) -> None:
    torch.set_num_threads(1)
    start(PEERS[case.peer].job(case, settings.code, settings.work, settings.steps))


def train_on_cpu(case: Case, settings: Settings) -> None:
    """Train in a process that sees no GPU: the scripts take one wherever they find it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    child = multiprocessing.get_context("spawn").Process(target=train, args=(case, settings))
    child.start()
    del os.environ["CUDA_VISIBLE_DEVICES"]
    if seen is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"the training ended with exit code {child.exitcode}")


def train_and_judge(case: Case, settings: Settings, on_cpu: bool) -> dict[str, Any]:
    """Train one case and judge its file."""
    started = time.perf_counter()
    (train_on_cpu if on_cpu else train)(case, settings)
    seconds = time.perf_counter() - started
    job = PEERS[case.peer].job(case, settings.code, settings.work, settings.steps)
    picture = settings.work / f"{case.name}.png" if case.setting != "trial" else None
    found = judged(job.files, job.prompt, settings, picture)
    return found | {"seconds": round(seconds, 1), "on_cpu": on_cpu}


# Many trainings


def trials(peer: str) -> list[Case]:
    """The search of a program, which is the same for all."""
    return [Case(peer, "trial", SEARCH_SEED, lr, rank) for lr in LRS for rank in RANKS] if PEERS[peer].searched else []


def best_of(rows: Sequence[Row], peer: str) -> Case | None:
    """The winner of the search: the largest sum of the shares of garp and of the other things. None while a trial has
    no row yet."""
    searched = trials(peer)
    done = of_setting(rows, peer, "trial")
    if not done or {case.name for case in searched} - {row["name"] for row in rows}:
        return None
    winner = max(done, key=lambda row: mean_of(row, "likeness") + mean_of(row, "others"))
    return Case(peer, "best", 0, winner["lr"], winner["rank"])


def wanted(rows: Sequence[Row], peers: Sequence[str]) -> list[Case]:
    """All trainings in their order: the defaults; the search, each setting with all programs, so that a call that is
    cut off leaves whole comparisons; the winners, as far as the search of a program is complete."""
    defaults = [Case(peer, "default", seed) for seed in SEEDS for peer in peers]
    settings = zip(*[cases for peer in peers if (cases := trials(peer))], strict=True)
    winners = [winner for peer in peers if (winner := best_of(rows, peer)) is not None]
    return [
        *defaults,
        *[case for cases in settings for case in cases],
        *[replace(winner, seed=seed) for seed in SEEDS for winner in winners],
    ]


def task_of(case: Case, settings: Settings) -> Task:
    """What the pool runs for a case."""
    return Task(case.name, asdict(case), partial(train_and_judge, case, settings))


def print_row(row: Row) -> None:
    shown = {number: round(mean_of(row, number), 3) for number in NUMBERS if row.get(number)}
    print(row["name"], row.get("error") or shown, f"{row.get('seconds', 0)} s", flush=True)


def pictures(rows: Sequence[Row], settings: Settings, peers: Sequence[str]) -> Image.Image | None:
    """A row of pictures of each program with its default and its best settings, of the first seed."""
    strips: list[list[Image.Image]] = []
    labels: list[str] = []
    for peer in peers:
        winner = best_of(rows, peer)
        for case in (Case(peer, "default", SEEDS[0]), winner and replace(winner, seed=SEEDS[0])):
            file = settings.work / f"{case.name}.png" if case else None
            if case is not None and file is not None and file.exists():
                strips.append([Image.open(file).convert("RGB")])
                labels.append(f"{peer}, {case.setting}")
    return grid(strips, row_labels=labels) if strips else None


def print_tables(rows: Sequence[Row]) -> None:
    print("", means_table(rows), "Search:", search_table(rows), sep="\n\n")
    print("\nBest settings, more than lorasmith:", differences_table(rows, "lorasmith"), sep="\n\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=Path, default=Path("clones"), help="folder of the other programs' clones")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    parser.add_argument("--to", type=Path, default=Path("peers.jsonl"))
    parser.add_argument("--grid", type=Path, default=Path("peers.png"))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="of 48 pictures for each training")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--cpu-jobs", type=int, default=0, help="further trainings at once that use the CPU beside a GPU"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time; what is done is kept")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only-defaults", action="store_true", help="one run of each program, to try the set-up")
    parser.add_argument("--table", action="store_true", help="print the tables of --to, and train nothing")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    if options.table:
        print_tables(read_rows(options.to))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    scale = json.loads(Path("src/lorasmith/assets/tiny-sd/vae/config.json").read_text())["scaling_factor"]
    tokenizer = Path("src/lorasmith/assets/tiny-sd/tokenizer").absolute()
    values = {"scale": str(scale), "tokenizer": str(tokenizer)}
    code = peer_code.prepare(options.clones, options.work / "code", values)
    write_data(options.work)
    settings = Settings(options.work, code, options.steps, options.rounds, options.device)

    limits = Limits(options.jobs, options.cpu_jobs, options.minutes)
    pool = Pool(limits, options.work / "logs", options.to, print_row)
    if not (options.work / BASE_FILE).exists():
        # drawn again where only the rows of an earlier call are left
        pool.rows = [row for row in pool.rows if row["name"] != "base"]
    base = Task("base", asdict(BASE), partial(draw_base, settings))
    if options.only_defaults:
        firsts = [Case(peer, "default", SEEDS[0]) for peer in options.peers]
        pool.run(lambda: [base, *(task_of(case, settings) for case in firsts)])
    else:
        pool.run(lambda: [base, *(task_of(case, settings) for case in wanted(pool.rows, options.peers))])
    print_tables(pool.rows)
    picture = pictures(pool.rows, settings, options.peers)
    if picture is not None:
        picture.save(options.grid, optimize=True)


if __name__ == "__main__":
    main()

"""Quality beside other trainers, with their own code, on the tiny base.

    python -m benchmarks.quality_peers --clones FOLDER [--work runs/peers] [--to peers.jsonl] [--jobs 2]

`--clones` holds clones of the other programs (benchmarks/peers/code.py). Each program trains garp with its default
settings and three seeds; then with each setting of one small search, the same for all; then with the best of these and
three new seeds. The judge looks at pictures that our sampler draws from each program's own file. Each training is a
process of its own; results are added to `--to`, and those that are there are not made again. Prints the table
of docs/measurements/quality.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from benchmarks.peers import code as peer_code
from benchmarks.peers.judging import Prompts, draw, measure
from benchmarks.peers.recipes import LRS, PEERS, RANKS, Case, start, write_data
from lorasmith.core.intervals import bootstrap_interval
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.imaging.grid import grid
from lorasmith.imaging.png import to_image
from lorasmith.sampling.loras import Loras, LoraUse

SEEDS = (1, 2, 3)
SEARCH_SEED = 100
NUMBERS = ("likeness", "others", "drift_features", "drift_pixels", "copying")
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
    base: torch.Tensor = torch.load(settings.work / "base.pt")
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


def draw_base(settings: Settings) -> dict[str, Any]:
    """The pictures of the other things without a LoRA; what the judge finds in all of them."""
    family, eye = load("tiny-sd", device=device_of(settings)), Judge.load()
    requests, names = Prompts("garp", settings.rounds).of("garp")
    pixels = draw(family, requests)
    half = len(requests) // 2
    torch.save(pixels[half:].clone(), settings.work / "base.pt")
    right = [int(seen == name) for seen, name in zip(eye.concept(pixels).names, names, strict=True)]
    zeros = [0.0] * half
    return {"likeness": right[:half], "others": right[half:], "drift_features": zeros, "drift_pixels": zeros}


def train_and_judge(case: Case, settings: Settings) -> dict[str, Any]:
    """Train one case and judge its file."""
    started = time.perf_counter()
    job = PEERS[case.peer](case, settings.code, settings.work, settings.steps)
    start(job)
    seconds = time.perf_counter() - started
    picture = settings.work / f"{case.name}.png" if case.setting != "trial" else None
    return judged(job.files, job.prompt, settings, picture) | {"seconds": round(seconds, 1)}


def in_child(work: Callable[[], dict[str, Any]], answer: Path, log: Path) -> None:
    """Run `work` with its output in `log`, and write what it returns, or how it failed."""
    torch.set_num_threads(1)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            result = work()
        except BaseException as error:  # a script may also end with SystemExit
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        answer.write_text(json.dumps(result))


# Many trainings

Task = tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]
"""A name, facts for its row, and the work."""


class Pool:
    """Runs pieces of work in processes of their own, since the scripts leave state behind."""

    def __init__(self, jobs: int, folder: Path, to: Path) -> None:
        self.jobs, self.folder, self.to = jobs, folder, to
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if to.exists():
            self.rows = [json.loads(line) for line in to.read_text().splitlines()]

    def done(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["name"] == name and "error" not in row), None)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks. One whose row is there is left out."""
        waiting = [task for task in tasks if self.done(task[0]) is None]
        running: dict[str, tuple[Any, dict[str, Any], Path]] = {}
        # a forked process could not use a GPU that an import has asked for
        context = multiprocessing.get_context("spawn")
        while waiting or running:
            while waiting and len(running) < self.jobs:
                name, facts, work = waiting.pop(0)
                answer = self.folder / f"{name}.answer.json"
                answer.unlink(missing_ok=True)
                child = context.Process(target=in_child, args=(work, answer, self.folder / f"{name}.log"))
                child.start()
                running[name] = (child, facts, answer)
            time.sleep(0.2)
            for name, (child, facts, answer) in list(running.items()):
                if child.is_alive():
                    continue
                del running[name]
                # a process that was killed leaves no answer
                found = json.loads(answer.read_text()) if answer.exists() else {"error": f"exit code {child.exitcode}"}
                self._add({"name": name} | facts | found)

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.to.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {key: round(fmean(row[key]), 3) for key in NUMBERS if row.get(key)}
        print(row["name"], row.get("error") or shown, f"{row.get('seconds', 0)} s", flush=True)


def best_of(pool: Pool, peer: str) -> Case | None:
    """The winner of the search: the largest sum of the shares of garp and of the other things."""
    trials = [row for row in pool.rows if row["peer"] == peer and row["setting"] == "trial" and "error" not in row]
    if not trials:
        return None
    winner = max(trials, key=lambda row: fmean(row["likeness"]) + fmean(row["others"]))
    return Case(peer, "best", 0, winner["lr"], winner["rank"])


def tasks_of(cases: Sequence[Case], settings: Settings) -> list[Task]:
    """What the pool runs for these cases."""
    return [(case.name, asdict(case), partial(train_and_judge, case, settings)) for case in cases]


def compare(pool: Pool, settings: Settings, peers: Sequence[str]) -> None:
    """All trainings: defaults and the search first, then the winners."""

    searched = [Case(peer, "trial", SEARCH_SEED, lr, rank) for lr in LRS for rank in RANKS for peer in peers]
    defaults = [Case(peer, "default", seed) for seed in SEEDS for peer in peers]
    pool.run(tasks_of([*defaults[: len(peers)], *searched, *defaults[len(peers) :]], settings))
    winners = [winner for peer in peers if (winner := best_of(pool, peer)) is not None]
    pool.run(tasks_of([Case(w.peer, "best", seed, w.lr, w.rank) for seed in SEEDS for w in winners], settings))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and 90 % interval over seeds and pictures, as rows of Markdown."""
    lines = [
        "| | setting | garp | others | drift, features | drift, pixels | copying |",
        "|---|---|---|---|---|---|---|",
    ]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        for setting in ("base", "default", "best"):
            own = [row for row in rows if row["peer"] == peer and row["setting"] == setting and "error" not in row]
            if not own:
                continue
            cells = [_cell([row.get(number, []) for row in own], number) for number in NUMBERS]
            chosen = f"best: lr {own[0]['lr']:g}, rank {own[0]['rank']}" if setting == "best" else setting
            lines.append(f"| {peer} | {chosen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[Sequence[float]], number: str) -> str:
    interval = bootstrap_interval(values)
    if interval is None:
        return "-"
    if number in ("likeness", "others"):
        return f"{100 * interval.mean:.0f} ({100 * interval.low:.0f} - {100 * interval.high:.0f})"
    return f"{interval.mean:.3f} ({interval.low:.3f} - {interval.high:.3f})"


def pictures(pool: Pool, settings: Settings, peers: Sequence[str]) -> Image.Image | None:
    """A row of pictures of each program at its best, of the first seed."""
    strips: list[list[Image.Image]] = []
    labels: list[str] = []
    for peer in peers:
        winner = best_of(pool, peer)
        for case in (Case(peer, "default", SEEDS[0]), winner and Case(peer, "best", SEEDS[0], winner.lr, winner.rank)):
            file = settings.work / f"{case.name}.png" if case else None
            if case is not None and file is not None and file.exists():
                strips.append([Image.open(file).convert("RGB")])
                labels.append(f"{peer}, {case.setting}")
    return grid(strips, row_labels=labels) if strips else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=Path, required=True, help="folder of the other programs' clones")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    parser.add_argument("--to", type=Path, default=Path("peers.jsonl"))
    parser.add_argument("--grid", type=Path, default=Path("peers.png"))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="of 48 pictures for each training")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only-defaults", action="store_true", help="one run of each program, to try the set-up")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    scale = json.loads(Path("src/lorasmith/assets/tiny-sd/vae/config.json").read_text())["scaling_factor"]
    tokenizer = Path("src/lorasmith/assets/tiny-sd/tokenizer").absolute()
    values = {"scale": str(scale), "tokenizer": str(tokenizer)}
    code = peer_code.prepare(options.clones, options.work / "code", values)
    write_data(options.work)
    settings = Settings(options.work, code, options.steps, options.rounds, options.device)

    pool = Pool(options.jobs, options.work / "logs", options.to)
    if not (options.work / "base.pt").exists():
        facts = {"peer": "no LoRA", "setting": "base", "lr": 0, "rank": 0, "seed": 0}
        pool.run([("base", facts, partial(draw_base, settings))])
    if options.only_defaults:
        pool.run(tasks_of([Case(peer, "default", SEEDS[0]) for peer in options.peers], settings))
    else:
        compare(pool, settings, options.peers)
    print(table(pool.rows))
    picture = pictures(pool, settings, options.peers)
    if picture is not None:
        picture.save(options.grid, optimize=True)


if __name__ == "__main__":
    main()

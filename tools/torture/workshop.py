"""A folder with images, caches, the runs that were left in peace and those that were not."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from lorasmith.core.store import LEFTOVER, is_abandoned
from tools.torture.processes import Ended, run

STEPS = 6
ATTEMPTS = 3
"""How often a run is continued after its fault."""
IN_CACHE = re.compile(r"cache/")
AWAY = "images-away"
"""The folder of the images while they are gone."""
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "new tokens": {"concepts": [{"words": ["<disc>"], "init": ["circle"], "lr": 1e-3}]},
    "ema": {"ema": 0.9},
    "validation": {"data.validation": {"split": 0.25}, "validation": {"every_steps": 2, "timesteps": [500]}},
    "dropout": {"adapter.dropout": 0.2},
    "schedule-free": {"optimizer": {"kind": "class", "name": "schedulefree.AdamWScheduleFree", "lr": 1e-3}},
    "bf16": {"precision": "bf16"},
    "states": {"hooks": [{"kind": "state", "every_steps": 2, "keep": 1}]},
    "accumulation": {"accumulation": 2},
    "two ranks": {"device": "cpu", "data.batch_size": 2},
}
"""Settings of each kind of run; a dotted key is one setting of a table."""
RANKS = {"two ranks": 2}
"""Kinds that are trained by several processes."""


@dataclass(frozen=True)
class Outcome:
    """What came out of one case."""

    case: str
    survived: bool
    exact: bool
    problem: str
    """What went wrong, for people; empty if nothing did."""


@dataclass(frozen=True)
class Case:
    """A run of one kind that meets a fault.

    `inject` starts the run, lets the fault happen, and returns how it ended. It gets the workshop, the case, and a
    generator that depends on the case alone.
    """

    name: str
    kind: str
    output: Path
    inject: Callable[[Workshop, Case, random.Random], Ended]
    cold: bool = False
    """Whether it has a cache of its own, which is empty at first."""

    @property
    def ranks(self) -> int:
        return RANKS.get(self.kind, 1)


class Workshop:
    """Runs the cases, and remembers the outcome of each, so that it can be interrupted and continued."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.images = folder / "images"
        self.record = folder / "cases.jsonl"
        self.whole: dict[str, dict[str, torch.Tensor]] = {}
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.record.is_file():
            lines = self.record.read_text(encoding="utf-8").splitlines()
            self.outcomes = {outcome.case: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}
        make_images(self.images)

    def cache(self, case: Case) -> Path:
        """The folder of the case's cache."""
        return case.output.with_name(f"{case.output.name[:40]}-cache") if case.cold else self.folder / "cache"

    def settings(self, kind: str, output: Path, cache: Path) -> dict[str, Any]:
        """The config of a run of one kind."""
        table: dict[str, Any] = {
            "base": "tiny-sd",
            "output": str(output),
            "name": "lora",
            "steps": STEPS,
            "threads": 1,
            "data": {"images": str(self.images), "resolution": 64, "cache_dir": str(cache)},
            "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
            "checkpoint": {"every_steps": 1},
        }
        for key, value in KINDS[kind].items():
            outer, _, inner = key.partition(".")
            if inner:
                table[outer][inner] = value
            else:
                table[outer] = value
        return table

    def command(self, case: Case) -> list[str]:
        """The arguments that start the run, or continue it if it has begun."""
        if (case.output / "config.toml").is_file():
            return ["train", "--resume", str(case.output)]
        settings = self.settings(case.kind, case.output, self.cache(case))
        config = self.folder / "config.json"
        config.write_text(json.dumps(settings), encoding="utf-8")
        return ["train", str(config)]

    def reference(self, kind: str) -> None:
        """Train the run that is left in peace, once for each kind."""
        if kind in self.whole:
            return
        case = Case(kind, kind, self.folder / f"whole-{kind.replace(' ', '-')}", lambda *_: Ended((0,), ""))
        shutil.rmtree(case.output, ignore_errors=True)
        started = time.monotonic()
        ended = run(self.command(case), case.ranks)
        if not ended.finished:
            raise SystemExit(f"{kind}: the run without any fault fails:\n{ended.messages}")
        self.seconds[kind] = time.monotonic() - started
        self.whole[kind] = load_file(case.output / "lora.safetensors")

    def try_case(self, case: Case) -> Outcome:
        """The outcome of a case, which is run unless it has been."""
        if case.name in self.outcomes:
            return self.outcomes[case.name]
        self.reference(case.kind)

        # what an interrupted session left of this case
        for path in (case.output, self.cache(case) if case.cold else case.output):
            shutil.rmtree(path, ignore_errors=True)
        case.output.parent.mkdir(parents=True, exist_ok=True)

        ended = case.inject(self, case, random.Random(f"{self.seed} {case.name}"))
        outcome = self.judge(case, ended)
        self.outcomes[case.name] = outcome
        with self.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        return outcome

    def judge(self, case: Case, ended: Ended) -> Outcome:
        """Continue a run after its fault, and see whether it survived and whether its LoRA is exact."""
        lora = case.output / "lora.safetensors"
        problem = ended.fault
        for _ in range(ATTEMPTS):
            if problem or (ended.finished and lora.is_file()):
                break
            ended = run(self.command(case), case.ranks)
            problem = ended.fault
        if problem or not lora.is_file():
            return Outcome(case.name, False, False, problem or f"no LoRA at the end: {ended.messages[-300:]}")

        tensors, whole = load_file(lora), self.whole[case.kind]
        same = tensors.keys() == whole.keys() and all(torch.equal(tensors[key], whole[key]) for key in whole)
        return Outcome(case.name, True, same, "" if same else "the LoRA differs from that of the run without a fault")


def make_images(folder: Path) -> None:
    """A few small pictures with captions."""
    # a session that was killed may have left them where a fault had put them
    shutil.rmtree(folder.with_name(AWAY), ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        Image.new("RGB", (72, 64), (30 * i, 250 - 30 * i, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a <disc>, number {i}", encoding="utf-8")


def strays(folder: Path) -> list[Path]:
    """Temporary files, folders and locks that are left, and that the next run would not remove either.

    A cache may be used by several runs at once, so a temporary file there is removed once it is old enough.
    """
    left = [
        Path(parent) / name
        for parent, folders, files in os.walk(folder)
        for name in [*folders, *files]
        if LEFTOVER.fullmatch(name) or name == ".lock"
    ]
    return [path for path in left if not (IN_CACHE.search(str(path)) and is_abandoned(path, after=0))]

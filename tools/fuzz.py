"""Give the program thousands of damaged files and odd command lines: `python -m tools.fuzz` (`make fuzz N=...`).

Each input is made by hypothesis, with a fixed seed, from a real one, and given to the command line in a process of its
own (`tools/fuzzing/guard.py`). Success and an error in words are right; a table counts the rest. Inputs that fail are
kept in a folder, with the command that failed and what it printed.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tools.fuzzing.data_files import caption_case, picture_case
from tools.fuzzing.guard import MISTAKE, SUCCESS, USAGE, Case, Outcome, Worker
from tools.fuzzing.material import Material, make_material
from tools.fuzzing.settings import config_case
from tools.fuzzing.states import pickle_case, state_case
from tools.fuzzing.tensor_files import lora_case
from tools.fuzzing.values import Draw

Maker = Callable[[Draw, Path, Material], Case]
SUBJECTS: dict[str, tuple[Maker, int]] = {
    "safetensors": (lora_case, 10_000),
    "pictures": (picture_case, 2_000),
    "captions": (caption_case, 5_000),
    "configs": (config_case, 5_000),
    "states": (state_case, 500),
    "pickles": (pickle_case, 500),
}
"""What is fuzzed, and how many inputs of it make the full size."""
FULL_SIZE = sum(count for _, count in SUBJECTS.values())
BATCH = 250
"""Inputs of one seed."""
FAULTS = ("traceback", "crash", "hang", "memory", "stray", "escape", "silence")


@dataclass
class Tally:
    """What came of the inputs of one subject."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return self.outcomes.total() - self.outcomes["not made"]

    @property
    def faults(self) -> int:
        return sum(self.outcomes[fault] for fault in FAULTS)


class Fuzzer:
    """Makes and runs inputs in a folder. `failures`: where those with a fault are kept."""

    def __init__(self, folder: Path, failures: Path | None = None) -> None:
        self.work = folder / "work"
        self.failures = failures
        self.cache = folder / "cache"
        os.environ["LORASMITH_CACHE"] = str(self.cache)
        self.material = make_material(folder / "material")
        warm_up(self.material, folder / "warm")
        self.worker = Worker(self.work, (self.cache,))

    def fuzz(self, subject: str, count: int, first_seed: int = 0) -> Tally:
        """Run `count` inputs of a subject."""
        tally = Tally()
        started = time.monotonic()
        for number in range(-(-count // BATCH)):
            self.batch(subject, min(BATCH, count - number * BATCH), first_seed + number, tally)
            print(f"{subject}: {tally.inputs} of {count} inputs, {tally.faults} faults", file=sys.stderr, flush=True)
        self.worker.stop()
        tally.seconds = time.monotonic() - started
        return tally

    def batch(self, subject: str, count: int, number: int, tally: Tally) -> None:
        """Inputs of one seed."""
        make, _ = SUBJECTS[subject]

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def each(data: st.DataObject) -> None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
            try:
                case = make(data.draw, self.work, self.material)
            except (ValueError, KeyError, IndexError, TypeError, RecursionError):
                # what is damaged twice may no longer be what the second damage needs
                tally.outcomes["not made"] += 1
                return
            outcome = self.worker.run(case)
            names = {SUCCESS: "success", MISTAKE: "error", USAGE: "error"}
            tally.outcomes[outcome.fault or names[outcome.code]] += 1
            if outcome.fault:
                self.keep(subject, case, outcome, tally)

        each()

    def keep(self, subject: str, case: Case, outcome: Outcome, tally: Tally) -> None:
        """Count a fault, and keep the first inputs of its kind."""
        kind = f"{outcome.fault}: {outcome.kind}"
        tally.kinds[kind] += 1
        if self.failures is None or tally.kinds[kind] > 2:
            return
        number = len(list(self.failures.glob(f"{subject}-*"))) if self.failures.is_dir() else 0
        place = self.failures / f"{subject}-{number:04d}"
        shutil.copytree(self.work, place, symlinks=True)
        command = shlex.join(["lorasmith", *(text.encode("unicode_escape").decode() for text in case.arguments)])
        (place / "FAULT.txt").write_text(f"{kind}\n{command}\n\n{outcome.output}", encoding="utf-8", errors="replace")


def warm_up(material: Material, folder: Path) -> None:
    """Import what the commands import, so that each fork finds it there, and let nothing of it be collected again."""
    import lorasmith.api
    from lorasmith.training.config import load_config

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    table = {**material.config, "output": str(folder / "run")}
    lorasmith.api.check(load_config(table).model_dump(mode="json"), pictures=folder / "p.jpg")
    lora = material.run / "garp.safetensors"
    lorasmith.api.inspect(lora)
    # in a fork of a process that has trained, threads of torch are missing; training is imported, not run
    for module in ("sampling.run", "files.convert", "files.merge", "files.resize", "files.combine", "fusion.fuse"):
        __import__(f"lorasmith.{module}")
    __import__("torch.utils.tensorboard.writer")
    gc.collect()
    gc.freeze()


def table(tallies: dict[str, Tally]) -> str:
    """The counts as lines of text."""
    columns = ("success", "error", *FAULTS)
    lines = [f"{'':12} {'inputs':>7} " + " ".join(f"{name:>9}" for name in columns) + "   seconds"]
    for subject, tally in tallies.items():
        counts = " ".join(f"{tally.outcomes[name]:>9}" for name in columns)
        lines.append(f"{subject:12} {tally.inputs:>7} {counts} {tally.seconds:>9.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=FULL_SIZE, help="inputs in all; default: %(default)s")
    parser.add_argument("--only", choices=sorted(SUBJECTS), action="append", help="subjects; default: all")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder of the inputs that fail")
    arguments = parser.parse_args()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="lorasmith-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder).resolve(), arguments.failures)
        for subject in arguments.only or SUBJECTS:
            count = max(1, round(SUBJECTS[subject][1] * arguments.count / FULL_SIZE))
            tallies[subject] = fuzzer.fuzz(subject, count, arguments.seed)
            for kind, times in tallies[subject].kinds.most_common():
                print(f"{subject}: {times} x {kind}", flush=True)
            print(table({subject: tallies[subject]}), flush=True)
    print(table(tallies))
    sys.exit(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    main()

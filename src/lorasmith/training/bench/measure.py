"""Starts a worker for each contender, lets them make steps in turns, and collects the figures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.training.bench.workload import Workload


@dataclass(frozen=True)
class Case:
    """One row: who makes which step."""

    label: str
    contender: str
    workload: Workload


@dataclass
class Figures:
    """What was measured of a case. Times are seconds; `error` is empty if it ran."""

    label: str
    batch: int
    steps: list[float] = field(default_factory=list[float])
    """Seconds a step of each turn."""
    cpu: list[float] = field(default_factory=list[float])
    """CPU-seconds a step of each turn."""
    start_up: float = 0.0
    """From the start of the process to the end of the first step."""
    first_step: float = 0.0
    peak_gib: float = 0.0
    allocated_gib: float = 0.0
    tflop: float = 0.0
    """Of a step with LoRA, which the first case counts."""
    error: str = ""

    @property
    def seconds(self) -> float:
        """The median of the time of a step."""
        return statistics.median(self.steps) if self.steps else 0.0

    @property
    def cpu_seconds(self) -> float:
        """The median of CPU-seconds a step."""
        return statistics.median(self.cpu) if self.cpu else 0.0

    @property
    def images_a_second(self) -> float:
        """At the median."""
        return self.batch / self.seconds if self.steps else 0.0

    def share(self, product: float) -> float:
        """Of the measured matrix product, which made `product` TFLOP/s."""
        return self.tflop / self.seconds / product if self.steps and product else 0.0


class WorkerProcess:
    """A worker, from the outside."""

    def __init__(self, case: Case, log: Path) -> None:
        self.case = case
        self.figures = Figures(case.label, case.workload.batch)
        self.started = time.perf_counter()
        self.log = log
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lorasmith.training.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def order(self, **order: Any) -> None:
        """Give an order without waiting for the answer."""
        assert self.process.stdin is not None
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
        except OSError:  # the process is gone, which its answer will say
            return

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to the oldest order; {} if it failed, and then `figures.error` says why.

        Raises LorasmithError for a mistake of the user.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
            found: dict[str, Any] = {"error": f"the process ended ({self.process.wait()}): {lines[-1][:300]}"}
        else:
            found = json.loads(line)
        if found.get("mistake"):
            raise LorasmithError(f"{self.case.label}: {found['error']}")
        if "error" in found:
            self.figures.error = found["error"]
            return {}
        return found

    def ask(self, **order: Any) -> dict[str, Any]:
        """The answer to an order; {} if this worker has failed before."""
        if self.figures.error:
            return {}
        self.order(**order)
        return self.answer()

    def build(self) -> None:
        """Tell the worker to load and to make its first steps."""
        self.order(do="build", contender=self.case.contender, workload=asdict(self.case.workload))

    def built(self) -> None:
        """Wait until it has."""
        found = self.answer()
        self.figures.start_up = time.perf_counter() - self.started
        self.figures.first_step = found.get("first_step_s", 0.0)

    def make_steps(self, count: int) -> None:
        """One turn."""
        found = self.ask(do="steps", count=count)
        if found:
            self.figures.steps.append(found["s"])
            self.figures.cpu.append(found["cpu_s"])

    def finish(self) -> None:
        """Ask for what is known after the steps."""
        found = self.ask(do="memory")
        self.figures.peak_gib = found.get("peak_gib", 0.0)
        self.figures.allocated_gib = found.get("allocated_gib", 0.0)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Turns:
    """How much is measured."""

    steps: int
    """In one turn of a contender."""
    count: int
    """Turns of each contender."""
    lock: Path
    """Held while anything is measured: benchmarks that run at the same time wait for each other."""
    start_together: bool = False
    """Start all contenders at once: sooner done, but start-up times are then not those of one alone."""


def measure_group(
    cases: Sequence[Case], turns: Turns, logs: Path, progress: Progress
) -> tuple[list[Figures], list[float]]:
    """The figures of cases that are measured in turns, and TFLOP/s of the product before and after them.

    The first case starts alone, since it fills the caches that others read. Raises LorasmithError for a mistake of the
    user.
    """
    workers: list[WorkerProcess] = []
    products: list[float] = []
    try:
        waiting: list[WorkerProcess] = []
        for i, case in enumerate(cases):
            worker = WorkerProcess(case, logs / f"{case.label}-b{case.workload.batch}.log".replace("/", "-"))
            workers.append(worker)
            worker.build()
            if turns.start_together and i > 0:
                waiting.append(worker)
            else:
                worker.built()
                progress.say(f"{case.label}, batch {case.workload.batch}: ready in {worker.figures.start_up:.1f} s")
        for worker in waiting:
            worker.built()

        with FileLock(turns.lock):
            products = take_turns(workers, turns, progress)
        tflop = workers[0].ask(do="flops").get("tflop", 0.0)
        for worker in workers:
            worker.figures.tflop = tflop
    finally:
        for worker in workers:
            worker.close()
    return [worker.figures for worker in workers], products


def take_turns(workers: list[WorkerProcess], turns: Turns, progress: Progress) -> list[float]:
    """Let workers that are ready make their steps; returns TFLOP/s of the product before and after."""
    # A product takes memory of its own, so it is computed where no peak of memory counts.
    before = workers[0].ask(do="product").get("tflops", 0.0)
    for worker in workers:
        worker.ask(do="warm_up")
    with progress.track("measuring", turns.count * len(workers)) as advance:
        for turn in range(turns.count):
            # whoever begins has no advantage over all turns
            first = turn % len(workers)
            for worker in workers[first:] + workers[:first]:
                worker.make_steps(turns.steps)
                advance(1, worker.case.label)
    for worker in workers:
        worker.finish()
    after = workers[0].ask(do="product").get("tflops", 0.0)
    return [before, after]

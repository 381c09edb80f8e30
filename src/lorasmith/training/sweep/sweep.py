"""The sweep itself: start runs where there is a place, watch them, write down what came out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import launched
from lorasmith.core.progress import Progress
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.sweep import results
from lorasmith.training.sweep.axes import Values, axes, label
from lorasmith.training.sweep.jobs import Job, job
from lorasmith.training.sweep.plans import Every, Plan, Search

PAUSE = 0.2
"""Seconds between two looks at the runs under way."""


@dataclass(frozen=True)
class Sweep:
    """What is asked for."""

    config: Path | dict[str, Any]
    over: Sequence[str]
    """`key=value,value`, or `key=low..high` for a search."""
    out: Path
    overrides: Sequence[str] = ()
    """`key=value` for all runs."""
    devices: Sequence[str] = ()
    """Default: all GPUs, else the CPU."""
    jobs: int | None = None
    """Runs at a time; default: one for each device."""
    search: int | None = None
    """So many runs, proposed by Optuna, in place of all combinations."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind."""

    folder: Path
    runs: list[dict[str, Any]]
    """As in results.json: values, state, loss, validation_loss, seconds, file."""
    best: str | None
    """The run with the lowest validation loss, if any was validated."""
    cache: dict[str, dict[str, int]]
    """`found` and `made`, of latents and of texts, over all runs."""
    comparison: Path | None
    """A picture of the runs' last previews."""
    finished: bool
    """Whether every run has come to its end, or was pruned."""
    stopped: bool = False


@dataclass
class Pool:
    """Places for runs, each on a device."""

    places: list[str]
    threads: int | None
    progress: Progress
    running: list[tuple[Job, str]] = field(default_factory=list)
    stopping: bool = False
    warm: bool = False
    """Whether a run has filled the caches that the others share."""

    def work(self, plan: Plan, folder: Path) -> None:
        """Run the plan to its end, or until it is told to stop."""
        done = sum(j.state == "finished" for j in plan.jobs)
        with self.progress.track("runs", plan.total) as advance:
            advance(done, "")
            exhausted = False
            while True:
                while not exhausted and not self.stopping and self._open():
                    exhausted = not self._start(plan.next())
                for j, place in list(self.running):
                    if j.poll():
                        self.running.remove((j, place))
                        self._settle(j)
                        plan.ended(j)
                        results.write(folder, plan.jobs)
                        self.progress.say(results.line(j))
                        advance(1, "")
                    else:
                        plan.watch(j)
                if not self.running and (exhausted or self.stopping):
                    return
                time.sleep(PAUSE)

    def stop(self, at_once: bool) -> None:
        """Let the runs under way save and end."""
        self.stopping = True
        for j, _ in self.running:
            j.stop(at_once)

    def _open(self) -> bool:
        """Whether a run may start: there is a place, and the first run has made what all need."""
        self.warm = self.warm or any(j.record() is not None for j, _ in self.running)
        return len(self.running) < len(self.places) and (self.warm or not self.running)

    def _start(self, j: Job | None) -> bool:
        if j is None:
            return False
        taken = [place for _, place in self.running]
        place = min(self.places, key=lambda p: taken.count(p) / self.places.count(p))
        self.progress.say(f"{label(j.values)}: {'going on' if (j.folder / 'config.toml').is_file() else 'started'}")
        j.start(place, self.threads)
        self.running.append((j, place))
        return True

    def _settle(self, j: Job) -> None:
        self.warm = self.warm or j.state == "finished"
        if self.stopping and j.state == "failed":
            j.state, j.message = "stopped", ""


def sweep(asked: Sweep, progress: Progress | None = None) -> SweepResult:
    """Run a config with many values, each run in a process of its own; finished runs are not made again.

    Raises ConfigError and LorasmithError for what the user can repair, before any run starts. A run that fails does not
    stop the others; the result says so.
    """
    if launched().count > 1:
        raise LorasmithError("a sweep starts its own processes; start it once, without torchrun or srun")
    progress = progress or Progress()
    found = axes(asked.over)
    base = load_config(asked.config, [*asked.overrides, *example(asked)])

    def make(values: Values) -> Job:
        return job(asked.config, asked.overrides, values, asked.out)

    if asked.search is None:
        plan: Plan = Every(found, make)
    else:
        if base.validation is None:
            raise LorasmithError(
                "--search compares validation losses: add [validation] to the config and hold images out with "
                "data.validation.split = 0.1"
            )
        plan = Search(found, make, asked.search, asked.out, base.seed)
    places = places_of(asked, base)
    pool = Pool(places, threads_of(places), progress)
    with stopping(pool):
        pool.work(plan, asked.out)
    best = results.write(asked.out, plan.jobs)
    comparison = results.compare(asked.out, plan.jobs)
    ended = all(j.state in ("finished", "pruned") for j in plan.jobs)
    rows = [results.row(j) for j in plan.jobs]
    return SweepResult(
        asked.out, rows, best, results.cache(plan.jobs), comparison, ended and not pool.stopping, pool.stopping
    )


def example(asked: Sweep) -> list[str]:
    """One value of each key: a config may need them to be whole."""
    return [f"{a.key}={a.values[0] if a.span is None else a.span[0]}" for a in axes(asked.over)] + [
        f'output="{asked.out.as_posix()}"'
    ]


def places_of(asked: Sweep, config: TrainConfig) -> list[str]:
    """A device for each run at a time."""
    devices = list(asked.devices) or [config.device]
    if devices == ["auto"]:
        import torch

        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    return [devices[i % len(devices)] for i in range(asked.jobs or len(devices))]


def threads_of(places: Sequence[str]) -> int | None:
    """CPU threads of each run, where several compute on one CPU."""
    on_cpu = sum(place == "cpu" for place in places)
    return max(1, (os.cpu_count() or 1) // on_cpu) if on_cpu > 1 else None


@contextmanager
def stopping(pool: Pool) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal let the runs save and end; a second time, they end at once."""

    def stop(number: int, frame: object) -> None:
        if not pool.stopping:
            pool.progress.say("stopping; the runs under way save. Once more to stop at once")
        pool.stop(at_once=pool.stopping)

    names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    try:
        old = {name: signal.signal(getattr(signal, name), stop) for name in names}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for j, _ in pool.running:  # none, but after an error
            j.stop(at_once=True)
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)

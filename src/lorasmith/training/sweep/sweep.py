"""Run a sweep: start runs on free devices, watch them, write the results."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import find_launch
from lorasmith.core.lock import locked
from lorasmith.core.progress import Progress
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.executors import Executor, Session, Task
from lorasmith.training.executors.local import LocalExecutor
from lorasmith.training.sweep import results
from lorasmith.training.sweep.axes import Axis, Values, combinations, label, parse_axes
from lorasmith.training.sweep.jobs import Job, make_job
from lorasmith.training.sweep.plans import Grid, Plan, Search
from lorasmith.training.sweep.ranking import LOSS, RunRanking, check_rank_by
from lorasmith.training.sweep.rows import read_rows, readable_name

RUNS_OF_A_SEARCH = 4
"""Runs of a search at a time, where an engine takes any number."""
POLL_INTERVAL = 0.2
"""Seconds between two checks of the runs under way."""


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep runs, and where."""

    config: Path | dict[str, Any]
    over: Sequence[str]
    """What varies: `key=value,value`, or `key=low..high` for a search."""
    out: Path
    """The folder of the sweep."""
    overrides: Sequence[str] = ()
    """`key=value` for all runs."""
    executor: Executor = field(default_factory=LocalExecutor)
    """Where the runs are."""
    jobs: int | None = None
    """Number of runs at a time. Default: as many as there are devices or places."""
    search: int | None = None
    """Number of runs of a search. None: run all combinations instead."""
    rank_by: str = LOSS
    """`loss`, the held-out loss of the best weights, or one of the four numbers of the hook `scores`."""
    rows: Path | None = None
    """A file of runs that differ in several settings at once; each of them is run with every combination of `over`."""


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep."""

    folder: Path
    runs: list[dict[str, Any]]
    """As in results.json: values, state, loss, validation_loss, seconds, file."""
    ranking: RunRanking
    """The best run by what the sweep is ranked by, and how far the others are behind."""
    cache: dict[str, dict[str, int]]
    """`found` and `made` cache entries, of latents and of texts, over all runs."""
    comparison: Path | None
    """A grid of the runs' last previews."""
    finished: bool
    """Whether every run is finished or was pruned."""
    stopped: bool = False
    """Whether the sweep was stopped by a signal."""

    @property
    def best(self) -> str | None:
        """The best run; None if no finished run was measured."""
        return self.ranking.best

    @property
    def ties(self) -> list[str]:
        """Runs that are not distinguishable from the best one."""
        return self.ranking.ties


@dataclass
class Pool:
    """Slots for runs, and the runs in them."""

    session: Session
    """Where the runs are."""
    fills_cache_first: bool
    """Whether the first run is alone until it has filled the cache that all runs share, so that no work is repeated."""
    threads: int | None
    """CPU threads of each run. None: the default of PyTorch."""
    progress: Progress
    running: list[tuple[Job, str]] = field(default_factory=list)
    """Runs under way, each with its device."""
    stopping: bool = False
    rank_by: str = LOSS
    most: int | None = None
    """The largest number of runs under way. None: as many as there are places."""
    cache_filled: bool = False
    """Whether a run has filled the cache that all runs share."""

    def work(self, plan: Plan, folder: Path) -> None:
        """Run the plan to its end, or until `stop` is called."""
        finished = sum(job.state == "finished" for job in plan.jobs)
        with self.progress.track("runs", plan.total) as advance:
            advance(finished, "")
            while True:
                plan_ended = self.stopping or self._fill_places(plan)
                for job, device in list(self.running):
                    assert job.handle is not None
                    news = job.handle.news()
                    if news:
                        self.progress.say(f"{label(job.values)}: {news}")
                    if job.poll():
                        self.running.remove((job, device))
                        self._handle_end(job, plan, folder)
                        advance(1, "")
                    else:
                        plan.watch(job)

                if not self.running and plan_ended:
                    return
                time.sleep(POLL_INTERVAL)

    def _fill_places(self, plan: Plan) -> bool:
        """Start runs on all free places together; returns whether the plan has ended."""
        starting: list[tuple[Job, str, Task]] = []
        plan_ended = False
        while not plan_ended and (device := self._free_device([device for _, device, _ in starting])) is not None:
            job = plan.next()
            if job is None:
                plan_ended = True
                continue
            task = job.task(device, self.threads)
            if not self._find(job, device, task):
                starting.append((job, device, task))
        if starting:
            self._start(starting)
        return plan_ended

    def stop(self, at_once: bool) -> None:
        """Start no more runs, and stop those under way: after their current step, or at once."""
        self.stopping = True
        for job, _ in self.running:
            job.stop(at_once)

    def _free_device(self, starting: Sequence[str]) -> str | None:
        """The device for a further run; None if there is no place. `starting`: devices of runs that are to start."""
        occupied = [*(device for _, device in self.running), *starting]
        self.cache_filled = self.cache_filled or any(job.record() is not None for job, _ in self.running)
        if self.fills_cache_first and occupied and not self.cache_filled:
            return None
        if self.most is not None and len(occupied) >= self.most:
            return None
        return self.session.free_device(occupied)

    def _find(self, job: Job, device: str, task: Task) -> bool:
        """Go on with the process of a run that an earlier sweep has started and that goes on without it."""
        handle = self.session.find(job.earlier(), task)
        if handle is None:
            return False
        self.progress.say(f"{label(job.values)}: is under way since an earlier start")
        job.started(handle)
        self.running.append((job, device))
        return True

    def _start(self, starting: Sequence[tuple[Job, str, Task]]) -> None:
        for job, _, _ in starting:
            self.progress.say(f"{label(job.values)}: {'continued' if job.begun else 'started'}")
        handles = self.session.start([task for _, _, task in starting])
        for (job, device, _), handle in zip(starting, handles, strict=True):
            job.started(handle)
            self.running.append((job, device))

    def _handle_end(self, job: Job, plan: Plan, folder: Path) -> None:
        """Update results and plan after a run has ended."""
        self.cache_filled = self.cache_filled or job.state == "finished"
        # a process that is stopped before its first step can end with an error
        if self.stopping and job.state == "failed":
            job.state, job.message = "stopped", ""
        plan.ended(job)
        results.write_results(folder, plan.jobs, self.rank_by)
        self.progress.say(results.describe_end(job))


def sweep(settings: SweepSettings, progress: Progress | None = None) -> SweepResult:
    """Run a config with many values, each run in a process of its own. Finished runs are not repeated.

    Raises ConfigError and LorasmithError for mistakes that the user can repair, before any run starts. A run that fails
    does not stop the others; its row in the result has the error.
    """
    if find_launch().count > 1:
        raise LorasmithError("a sweep starts its own processes; start it once, without torchrun or srun")
    progress = progress or Progress()
    axes = parse_axes(settings.over) if settings.over or settings.rows is None else []
    if settings.rows is not None and settings.search is not None:
        raise LorasmithError("--rows lists the runs, and --search proposes them; give one of them")
    rows = read_rows(settings.rows) if settings.rows is not None else [{}]
    refuse_output(settings.overrides, axes, rows)
    # mistakes in the config are found here, before any run starts
    first_run = [*row_overrides(rows[0]), *example_overrides(axes, settings.out)]
    base = load_config(settings.config, [*settings.overrides, *first_run])

    check_rank_by(settings.rank_by, base)
    plan = make_plan(settings, axes, rows, base)
    executor = settings.executor
    # each run locks its folder as well; this lock is for the table of results and the plan
    with (
        locked(settings.out, "--out"),
        executor.open(settings.out, settings.jobs, base.device) as session,
    ):
        pool = make_pool(settings, session, progress)
        with stop_on_signals(pool, survives_terminal=executor.survives_terminal):
            pool.work(plan, settings.out)

    ranking = results.write_results(settings.out, plan.jobs, settings.rank_by)
    comparison = results.draw_comparison(settings.out, plan.jobs)
    all_ended = all(job.state in ("finished", "pruned") for job in plan.jobs)
    return SweepResult(
        folder=settings.out,
        runs=[results.result_row(job) for job in plan.jobs],
        ranking=ranking,
        cache=results.count_cache_entries(plan.jobs),
        comparison=comparison,
        finished=all_ended and not pool.stopping,
        stopped=pool.stopping,
    )


def make_pool(settings: SweepSettings, session: Session, progress: Progress) -> Pool:
    """The places for the runs."""
    executor = settings.executor
    pool = Pool(session, executor.fills_cache_first, session.threads(), progress, rank_by=settings.rank_by)
    if settings.search is not None:
        # proposals depend on the results of earlier runs, so a batch system must not get all of them at once
        pool.most = settings.jobs or (RUNS_OF_A_SEARCH if executor.has_queue else None)
    return pool


def refuse_output(overrides: Sequence[str], axes: Sequence[Axis], rows: Sequence[Values]) -> None:
    """Raises LorasmithError if an override, an axis or a row sets the folder of a run, which the sweep chooses."""
    of_rows = [text for row in rows for text in row_overrides(row)]
    assignments = [*overrides, *(f"{axis.key}=" for axis in axes), *of_rows]
    given = next((text for text in assignments if text.split("=", 1)[0].strip() == "output"), None)
    if given is not None:
        raise LorasmithError(
            f"{given.rstrip('=')}: the runs of a sweep have folders below that of the sweep; choose it by --out FOLDER"
        )


def row_overrides(row: Values) -> list[str]:
    return [f"{key}={value}" for key, value in row.items()]


def make_plan(settings: SweepSettings, axes: Sequence[Axis], rows: Sequence[Values], base: TrainConfig) -> Plan:
    """The plan of all combinations, or of a search. Raises LorasmithError if a search has no validation loss to go
    by."""

    def make(values: Values) -> Job:
        # a row with a name, and nothing else that varies, has a folder that people can read
        name = readable_name(values) if settings.rows is not None and not axes else ""
        return make_job(settings.config, settings.overrides, values, settings.out, name)

    if settings.search is None:
        return Grid([{**row, **values} for row in rows for values in combinations(axes)], make)
    if base.validation is None:
        raise LorasmithError("--search compares validation losses: hold images out with data.validation.split = 0.1")
    return Search(axes, make, settings.search, settings.out, base.seed)


def example_overrides(axes: Sequence[Axis], out: Path) -> list[str]:
    """Overrides with one value of each key, because a config may be incomplete without them."""
    values = [f"{axis.key}={axis.values[0] if axis.span is None else axis.span[0]}" for axis in axes]
    return [*values, f'output="{out.as_posix()}"']


@contextmanager
def stop_on_signals(pool: Pool, survives_terminal: bool) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal stop the runs after their current step, with a checkpoint. A second signal
    stops them at once. With `survives_terminal`, a closed terminal ends this process and leaves the runs."""

    def handle(number: int, frame: object) -> None:
        if not pool.stopping:
            pool.progress.say("stopping; the runs under way save a checkpoint. Once more to stop at once")
        pool.stop(at_once=pool.stopping)

    # Windows has no SIGHUP
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if survives_terminal:
        names.remove("SIGHUP")
    try:
        handlers = {name: signal.signal(getattr(signal, name), handle) for name in names}
    except ValueError:  # only the main thread can set signal handlers
        yield
        return
    try:
        yield
    finally:
        # runs are left here only after an error; those that go on without this process are found by the next one
        for job, _ in [] if survives_terminal else pool.running:
            job.stop(at_once=True)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)

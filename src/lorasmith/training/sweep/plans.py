"""Which run comes next: every combination in order, or what a search proposes (Optuna)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.sweep.axes import Axis, Values, product
from lorasmith.training.sweep.jobs import Job

Make = Callable[[Values], Job]


class Plan(ABC):
    """The runs of a sweep as they become known."""

    jobs: list[Job]
    total: int

    @abstractmethod
    def next(self) -> Job | None:
        """A run to start now; None if there is none left."""

    def watch(self, job: Job) -> None:  # noqa: B027
        """Look at a run under way."""

    def ended(self, job: Job) -> None:  # noqa: B027
        """A run has ended, in whatever state."""


class Every(Plan):
    """All combinations; finished ones are not run again."""

    def __init__(self, axes: Sequence[Axis], make: Make) -> None:
        self.jobs = [make(values) for values in product(axes)]
        folders = [job.folder for job in self.jobs]
        for folder in folders:
            if folders.count(folder) > 1:
                raise LorasmithError(f"two combinations have the same folder, {folder}; are two values the same?")
        self.total = len(self.jobs)
        self._waiting = iter([job for job in self.jobs if job.state != "finished"])

    def next(self) -> Job | None:
        return next(self._waiting, None)


class Search(Plan):
    """`total` runs whose values a tree-structured Parzen estimator proposes from the validation losses so far
    (arXiv 2304.11127). A run whose validation loss is above the median of the others' at the same step is ended.

    What was proposed is kept in `search.json`, so that a search goes on where it was stopped.
    """

    def __init__(self, axes: Sequence[Axis], make: Make, total: int, folder: Path, seed: int) -> None:
        self._optuna = optuna()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        pruner = self._optuna.pruners.MedianPruner(n_startup_trials=max(2, min(5, total // 4)))
        sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, min(10, total // 3)))
        self._study = self._optuna.create_study(sampler=sampler, pruner=pruner)
        self._spaces = {a.key: self._space(a) for a in axes}
        self._make, self.total, self._file = make, total, folder / "search.json"
        self.jobs: list[Job] = []
        self._trials: dict[str, Any] = {}
        self._asked: list[Values] = []
        self._told: dict[str, float] = {}
        self._recall()

    def next(self) -> Job | None:
        while len(self._asked) < self.total:
            trial = self._study.ask(self._spaces)
            values = {key: _text(value) for key, value in trial.params.items()}
            self._asked.append(values)
            job = self._make(values)
            if any(job.folder == other.folder for other in self.jobs):  # proposed again: the answer is known
                known = next(other for other in self.jobs if other.folder == job.folder)
                self._tell(trial, known)
                continue
            self.jobs.append(job)
            if job.state in ("finished", "pruned"):
                self._tell(trial, job)
                continue
            self._trials[job.name] = trial
            write_text(self._file, json.dumps([j.values for j in self.jobs], indent=1))
            return job
        return None

    def watch(self, job: Job) -> None:
        trial = self._trials[job.name]
        if job.state != "running" or (job.folder / "pruned").exists():
            return
        for step, loss in losses(job):
            if step > self._told.get(job.name, 0):
                trial.report(loss, step)
                self._told[job.name] = step
                if trial.should_prune():
                    job.prune()
                    return

    def ended(self, job: Job) -> None:
        if job.state != "stopped":
            self._tell(self._trials[job.name], job)

    def _tell(self, trial: Any, job: Job) -> None:
        states = self._optuna.trial.TrialState
        found = losses(job)
        if job.state == "finished" and found:
            self._study.tell(trial, found[-1][1])
        else:
            self._study.tell(trial, state=states.PRUNED if job.state == "pruned" else states.FAIL)

    def _recall(self) -> None:
        """Take up what an earlier part of this search has proposed: ended runs as known, others to be run first."""
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else "[]"
        for values in json.loads(text):
            if values.keys() != self._spaces.keys():
                raise LorasmithError(f"{self._file.parent} holds a search over other keys; give another --out")
            try:
                params = {key: self._value(key, value) for key, value in values.items()}
            except ValueError:
                continue  # outside of what is searched now
            self._study.enqueue_trial(params)

    def _space(self, a: Axis) -> Any:
        kinds = self._optuna.distributions
        if a.span is None:
            return kinds.CategoricalDistribution(a.values)
        kind = kinds.IntDistribution if a.whole else kinds.FloatDistribution
        return kind(*a.span, log=a.logarithmic)

    def _value(self, key: str, text: str) -> Any:
        space = self._spaces[key]
        if hasattr(space, "choices"):
            if text not in space.choices:
                raise ValueError(text)
            return text
        value = type(space.low)(float(text))
        if not space.low <= value <= space.high:
            raise ValueError(text)
        return value


def losses(job: Job) -> list[tuple[float, float]]:
    """(step, validation loss) of a run, after its start."""
    record = job.record()
    return [] if record is None else [(step, loss) for step, loss in record.points("validation", "loss") if step > 0]


def optuna() -> Any:
    """The module. Raises LorasmithError with what to install."""
    try:
        return import_module("optuna")
    except ImportError:
        raise LorasmithError(
            '--search needs Optuna: pip install "lorasmith[search]"; without it, list values with --over'
        ) from None


def _text(value: Any) -> str:
    """A value as an override; of a float, three digits are enough."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

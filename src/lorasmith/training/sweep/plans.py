"""Which run is started next: every combination in order, or the proposals of a search with Optuna."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.sweep.axes import Axis, Values
from lorasmith.training.sweep.jobs import Job
from lorasmith.training.sweep.ranking import best_mean

MakeJob = Callable[[Values], Job]


class Plan(ABC):
    """The runs of a sweep."""

    jobs: list[Job]
    """The runs that are known so far."""
    total: int
    """Number of runs in the end."""

    @abstractmethod
    def next(self) -> Job | None:
        """The run to start next; None if there are no more."""

    def watch(self, job: Job) -> None:  # noqa: B027
        """Called again and again while a run is under way."""

    def ended(self, job: Job) -> None:  # noqa: B027
        """Called when a run has ended, in whatever state."""


class Grid(Plan):
    """Every combination of values. Finished runs are not repeated."""

    def __init__(self, combined: Sequence[Values], make_job: MakeJob) -> None:
        self.jobs = [make_job(values) for values in combined]
        folders = [job.folder for job in self.jobs]
        for folder in folders:
            if folders.count(folder) > 1:
                raise LorasmithError(f"two combinations have the same folder, {folder}; are two values the same?")
        self.total = len(self.jobs)
        # pruned runs are continued here: a search has ended them, and this sweep asks for all combinations
        self._unfinished = iter([job for job in self.jobs if job.state != "finished"])

    def next(self) -> Job | None:
        return next(self._unfinished, None)


class Search(Plan):
    """`total` runs whose values a tree-structured Parzen estimator proposes from the validation losses so far
    (arXiv 2304.11127). A run is ended early if its validation loss is above the median of the others' at the same step.

    The proposed values are saved in `search.json`, so that a stopped search can be continued.
    """

    def __init__(self, axes: Sequence[Axis], make_job: MakeJob, total: int, folder: Path, seed: int) -> None:
        self.jobs: list[Job] = []
        self.total = total
        self._make_job = make_job
        self._file = folder / "search.json"

        # the first runs have random values and are not ended early: there is nothing yet to compare them with
        self._optuna = import_optuna()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, min(10, total // 3)))
        pruner = self._optuna.pruners.MedianPruner(n_startup_trials=max(2, min(5, total // 4)))
        self._study = self._optuna.create_study(sampler=sampler, pruner=pruner)
        self._distributions = {axis.key: self._distribution(axis) for axis in axes}

        self._proposals = 0
        self._trials: dict[str, Any] = {}
        """Optuna's trial of each run that has been started, by name."""
        self._reported_step: dict[str, float] = {}
        """The last step whose validation loss has been reported to Optuna, by run."""
        self._enqueue_earlier_proposals()

    def next(self) -> Job | None:
        while self._proposals < self.total:
            trial = self._study.ask(self._distributions)
            self._proposals += 1
            values = {key: _as_override(value) for key, value in trial.params.items()}
            job = self._make_job(values)

            # values that were proposed before, rounded: their result is known, or will be under the first trial
            same = [other for other in self.jobs if other.folder == job.folder]
            if same:
                self._report_result(trial, same[0])
                continue
            self.jobs.append(job)
            if job.state in ("finished", "pruned"):
                self._report_result(trial, job)
                continue

            self._trials[job.name] = trial
            # saved before the run starts, so that it is not lost if the sweep is stopped meanwhile
            write_text(self._file, json.dumps([known.values for known in self.jobs], indent=1))
            return job
        return None

    def watch(self, job: Job) -> None:
        """Report new validation losses of a run, and end the run early if Optuna advises so."""
        if job.state != "running" or job.pruned:
            return
        trial = self._trials[job.name]
        for step, loss in validation_losses(job):
            if step <= self._reported_step.get(job.name, 0):
                continue
            trial.report(loss, step)
            self._reported_step[job.name] = step
            if trial.should_prune():
                job.prune()
                return

    def ended(self, job: Job) -> None:
        # a stopped run has no result; it is proposed again when the search is continued
        if job.state != "stopped":
            self._report_result(self._trials[job.name], job)

    def _report_result(self, trial: Any, job: Job) -> None:
        """Tell Optuna the held-out loss of a run's best weights, or that the run was pruned or has failed."""
        states = self._optuna.trial.TrialState
        loss, _ = best_mean(job.record())
        if job.state == "finished" and loss is not None:
            self._study.tell(trial, loss)
        elif job.state == "pruned":
            self._study.tell(trial, state=states.PRUNED)
        else:
            self._study.tell(trial, state=states.FAIL)

    def _enqueue_earlier_proposals(self) -> None:
        """Let Optuna propose first what it proposed before the search was stopped. Runs that have ended are found in
        their folders; the others are continued."""
        if not self._file.is_file():
            return
        for values in json.loads(self._file.read_text(encoding="utf-8")):
            if values.keys() != self._distributions.keys():
                raise LorasmithError(f"{self._file.parent} holds a search over other keys; choose another --out")
            try:
                params = {key: self._parse_value(key, text) for key, text in values.items()}
            except ValueError:
                continue  # outside of the range that is searched now
            self._study.enqueue_trial(params)

    def _distribution(self, axis: Axis) -> Any:
        """What Optuna draws the values of an axis from."""
        kinds = self._optuna.distributions
        if axis.span is None:
            return kinds.CategoricalDistribution(axis.values)
        kind = kinds.IntDistribution if axis.integers else kinds.FloatDistribution
        return kind(*axis.span, log=axis.logarithmic)

    def _parse_value(self, key: str, text: str) -> Any:
        """The value that a text in search.json stands for. Raises ValueError if the search does not include it."""
        distribution = self._distributions[key]
        if hasattr(distribution, "choices"):
            if text not in distribution.choices:
                raise ValueError(text)
            return text
        value = type(distribution.low)(float(text))
        if not distribution.low <= value <= distribution.high:
            raise ValueError(text)
        return value


def validation_losses(job: Job) -> list[tuple[float, float]]:
    """(step, validation loss) of a run, without the one before the first step."""
    record = job.record()
    if record is None:
        return []
    return [(step, loss) for step, loss in record.points("validation", "loss") if step > 0]


def import_optuna() -> Any:
    """The package `optuna`. Raises LorasmithError if it is not installed."""
    try:
        return import_module("optuna")
    except ImportError:
        raise LorasmithError(
            '--search needs Optuna: pip install "lorasmith[search]"; without it, list values with --over'
        ) from None


def _as_override(value: Any) -> str:
    """A value as the text of an override. Floats are rounded to three digits, which is enough for a search."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

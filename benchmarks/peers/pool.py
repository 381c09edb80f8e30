"""Many trainings at once, each in a process of its own, since the scripts leave state behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
LOG_TAIL = 1500
"""Characters of the log of a failed piece of work that its row keeps."""


class Task:
    """A piece of work: its name, facts for its row, and what it does."""

    def __init__(self, name: str, facts: Row, work: Callable[[bool], Row]) -> None:
        """`work` gets whether it is to train on the CPU."""
        self.name, self.facts, self.work = name, facts, work


def in_child(work: Callable[[bool], Row], on_cpu: bool, answer: Path, log: Path) -> None:
    """Run `work` with its output in `log`, and write what it returns, or how it failed."""
    torch.set_num_threads(1)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            result = work(on_cpu)
        except BaseException as error:  # a script may also end with SystemExit
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        answer.write_text(json.dumps(result))


def read_rows(file: Path) -> list[Row]:
    """The rows of an earlier call. Failures, and a last line that was cut off, do not count."""
    rows: list[Row] = []
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "error" not in row:
            rows.append(row)
    return rows


class Running(NamedTuple):
    """A task that is being done."""

    child: Any
    task: Task
    on_cpu: bool


@dataclass(frozen=True)
class Limits:
    """How much is run at once, and for how long."""

    jobs: int
    """Processes that train where a GPU is, if there is one."""
    cpu_jobs: int
    """Further processes, which train on the CPU beside them."""
    minutes: float
    """When to end, with what is running then."""


class Pool:
    """Runs tasks, and adds a row to a file when one is done."""

    def __init__(self, limits: Limits, folder: Path, to: Path, added: Callable[[Row], None]) -> None:
        """`added` is called with each new row."""
        self.limits, self.folder, self.to, self.added = limits, folder, to, added
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = read_rows(to)
        self._end = time.monotonic() + 60 * limits.minutes
        self._running: dict[str, Running] = {}

    def run(self, wanted: Callable[[], Sequence[Task]]) -> None:
        """Run tasks until all that are wanted have a row. What is wanted may depend on the rows so far."""
        while time.monotonic() < self._end:
            known = {row["name"] for row in self.rows} | set(self._running)
            waiting = [task for task in wanted() if task.name not in known]
            if not waiting and not self._running:
                return
            for task, on_cpu in zip(waiting, self._free_places(), strict=False):
                self._start(task, on_cpu)
            self._wait_for_one()
        for name, running in self._running.items():
            running.child.terminate()
            print(name, "was cut off", flush=True)

    def _free_places(self) -> list[bool]:
        """For each task that can be started: whether it is to train on the CPU."""
        on_cpu = sum(running.on_cpu for running in self._running.values())
        others = len(self._running) - on_cpu
        return [False] * (self.limits.jobs - others) + [True] * (self.limits.cpu_jobs - on_cpu)

    def _start(self, task: Task, on_cpu: bool) -> None:
        answer = self._answer(task)
        answer.unlink(missing_ok=True)
        # a forked process could not use a GPU that an import has initialised
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=in_child, args=(task.work, on_cpu, answer, self._log(task)))
        child.start()
        self._running[task.name] = Running(child, task, on_cpu)

    def _wait_for_one(self) -> None:
        """Until a process has ended, or time is up."""
        while time.monotonic() < self._end:
            ended = [name for name, running in self._running.items() if not running.child.is_alive()]
            for name in ended:
                running = self._running.pop(name)
                self._add(running.task, running.child.exitcode)
            if ended:
                return
            time.sleep(0.2)

    def _add(self, task: Task, exit_code: int | None) -> None:
        answer = self._answer(task)
        # a process that was killed leaves no answer
        found = json.loads(answer.read_text()) if answer.exists() else {"error": f"exit code {exit_code}"}
        if "error" in found:
            found["log"] = self._log(task).read_text("utf-8", errors="replace")[-LOG_TAIL:]
        row = {"name": task.name} | task.facts | found
        self.rows.append(row)
        with self.to.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self.added(row)

    def _answer(self, task: Task) -> Path:
        return self.folder / f"{task.name}.answer.json"

    def _log(self, task: Task) -> Path:
        return self.folder / f"{task.name}.log"

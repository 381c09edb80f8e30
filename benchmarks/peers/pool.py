"""Many trainings at once, each in a process of its own, since the scripts leave state behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
LOG_TAIL = 1500
"""Characters of the log of a failed piece of work that its row keeps."""


class Task:
    """A piece of work: its name, facts for its row, and what it does."""

    def __init__(self, name: str, facts: Row, work: Callable[[], Row]) -> None:
        self.name, self.facts, self.work = name, facts, work


def in_child(work: Callable[[], Row], answer: Path, log: Path) -> None:
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


class Pool:
    """Runs tasks, and adds a row to a file when one is done."""

    def __init__(self, jobs: int, folder: Path, to: Path, minutes: float, added: Callable[[Row], None]) -> None:
        """`minutes`: when to end, with what is running then. `added` is called with each new row."""
        self.jobs, self.folder, self.to, self.added = jobs, folder, to, added
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = read_rows(to)
        self._end = time.monotonic() + 60 * minutes
        self._running: dict[str, tuple[Any, Task]] = {}

    def run(self, wanted: Callable[[], Sequence[Task]]) -> None:
        """Run tasks until all that are wanted have a row. What is wanted may depend on the rows so far."""
        while time.monotonic() < self._end:
            known = {row["name"] for row in self.rows} | set(self._running)
            waiting = [task for task in wanted() if task.name not in known]
            if not waiting and not self._running:
                return
            for task in waiting[: self.jobs - len(self._running)]:
                self._start(task)
            self._wait_for_one()
        for name, (child, _) in self._running.items():
            child.terminate()
            print(name, "was cut off", flush=True)

    def _start(self, task: Task) -> None:
        answer = self._answer(task)
        answer.unlink(missing_ok=True)
        # a forked process could not use a GPU that an import has asked for
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=in_child, args=(task.work, answer, self._log(task)))
        child.start()
        self._running[task.name] = (child, task)

    def _wait_for_one(self) -> None:
        """Until a process has ended, or time is up."""
        while time.monotonic() < self._end:
            ended = [name for name, (child, _) in self._running.items() if not child.is_alive()]
            for name in ended:
                child, task = self._running.pop(name)
                self._add(task, child.exitcode)
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

"""What all engines with several machines have in common: they call a `SharedTask` on a node, and the rest is files.

An engine is a kind of `RemoteExecutor` and a `RemoteSession` with two methods: `submit` gives tasks to the engine, and
`free_device` says whether there is place for one more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from lorasmith.core.errors import LorasmithError
from lorasmith.training.executors.base import Ended, Executor, Handle, Session, Task
from lorasmith.training.executors.shared_task import (
    STARTED,
    TASK,
    SharedTask,
    ended_with,
    has_sign_of_life,
    read_json,
    request_stop,
    requested_stop,
    write_json,
)
from lorasmith.training.job_process import STOPPED_EXIT_CODE

PASSED_ON = ("LORASMITH_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")
"""Environment variables that a run needs on every node. No secrets: they are written into a file."""
SECONDS_UNTIL_SEEN = 15.0
"""How long a file of a node may take to be seen here."""

SECONDS_UNTIL_REPORT = 20.0
"""How long a task may wait to begin before that is reported."""


class RemoteExecutor(Executor):
    """An engine that places runs on the nodes of a cluster."""

    gpus_per_run: float | None = Field(None, ge=0, le=1)
    """GPUs of each run: 0, 1, or a fraction where several runs share one. Default: 1, or 0 if the config trains on the
    CPU."""
    cpus_per_run: int = Field(1, ge=1)
    """CPU cores of each run."""

    def gpus(self, device: str, default: float = 1.0) -> float:
        """GPUs of each run, for the `device` of the config."""
        given = self.gpus_per_run
        if given is None:
            return 0.0 if device == "cpu" else default
        if given and device == "cpu":
            raise LorasmithError(
                f'the config trains on the CPU (device = "cpu"), and --gpus-per-run is {given:g}; give one of them'
            )
        return given

    def run_device(self, gpus: float) -> str:
        """The device of a run. An engine shows each run its own GPUs only, so the first one is the run's."""
        return "cuda:0" if gpus else "cpu"


class EngineJob(Protocol):
    """A task in the hands of an engine."""

    @property
    def reference(self) -> dict[str, Any]:
        """JSON data from which the engine finds the job again; empty if it ends with this program."""
        ...

    def poll(self) -> Ended | None:
        """How the job has ended, for the engine; None as long as it waits or runs."""
        ...

    def cancel(self, at_once: bool) -> None:
        """Give up a job that waits; with `at_once`, kill it if it runs."""
        ...

    def waits_for(self) -> str:
        """What a job that has not begun waits for, as the end of a sentence."""
        ...


class RemoteHandle:
    """A task that was given to an engine."""

    def __init__(self, folder: Path, token: str, job: EngineJob, engine: str) -> None:
        self.folder, self.token, self.job, self.engine = folder, token, job, engine
        self._reported: Any = None
        self._given_at = time.monotonic()
        self._ended_at: float | None = None

    @property
    def reference(self) -> dict[str, Any]:
        return {"on": self.engine, "token": self.token, **self.job.reference}

    @property
    def has_started(self) -> bool:
        return (read_json(self.folder / STARTED) or {}).get("token") == self.token

    def poll(self) -> Ended | None:
        code = ended_with(self.folder, self.token)
        if code is not None:
            return Ended(code)
        if requested_stop(self.folder) and not self.has_started:
            # another program may have requested it
            self.job.cancel(at_once=False)
        ended = self.job.poll()
        if ended is None:
            self._ended_at = None
            return None
        if ended.code is None and requested_stop(self.folder):
            return Ended(STOPPED_EXIT_CODE)
        # what the node has written last may not be seen here yet
        self._ended_at = self._ended_at or time.monotonic()
        is_patient = ended.code is None and has_sign_of_life(self.folder)
        if is_patient and time.monotonic() < self._ended_at + SECONDS_UNTIL_SEEN:
            return None
        return ended

    def stop(self, at_once: bool = False) -> None:
        request_stop(self.folder, at_once)
        if at_once or not self.has_started:
            self.job.cancel(at_once)

    def news(self) -> str:
        started = read_json(self.folder / STARTED) or {}
        if started.get("token") != self.token:
            if self._reported is not None or time.monotonic() < self._given_at + SECONDS_UNTIL_REPORT:
                return ""
            self._reported = "waits"
            return f"waits for {self.job.waits_for()}"
        now = started.get("host"), started.get("attempt")
        if now == self._reported:
            return ""
        self._reported = now
        return f"runs on {now[0]}" if now[1] == 1 else f"continues on {now[0]}, attempt {now[1]}"


class RemoteSession(Session):
    """A connection to an engine that places runs on other machines."""

    cpus: int
    """CPU cores of each run."""

    def threads(self) -> int | None:
        return self.cpus

    @abstractmethod
    def submit(self, tasks: Sequence[SharedTask], names: Sequence[str]) -> list[EngineJob]:
        """Give tasks to the engine. Raises LorasmithError if it does not take them."""

    @abstractmethod
    def find_job(self, reference: Mapping[str, Any]) -> EngineJob | None:
        """A job of an earlier session; None if the engine does not know it any more."""

    def start(self, tasks: Sequence[Task]) -> list[Handle]:
        tokens = [prepare(task) for task in tasks]
        shared = [SharedTask(str(task.folder), token) for task, token in zip(tasks, tokens, strict=True)]
        jobs = self.submit(shared, [task.name for task in tasks])
        return [
            RemoteHandle(task.folder, token, job, self.engine)
            for task, token, job in zip(tasks, tokens, jobs, strict=True)
        ]

    def find(self, reference: Mapping[str, Any], task: Task) -> Handle | None:
        token = reference.get("token")
        if reference.get("on") != self.engine or not isinstance(token, str):
            return None
        job = self.find_job(reference)
        if job is None:
            return None
        handle = RemoteHandle(task.folder, token, job, self.engine)
        return handle if handle.poll() is None else None


def prepare(task: Task) -> str:
    """Write the files of a task; returns its token."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    if task.empty_log:
        task.log.unlink(missing_ok=True)
    token = secrets.token_hex(8)
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if task.threads is not None:
        variables["OMP_NUM_THREADS"] = str(task.threads)
    write_json(
        task.folder / TASK,
        {
            "token": token,
            "run": str(task.run),
            "command": list(task.command),
            "resume": list(task.resume),
            "python": sys.executable,
            "directory": str(task.directory),
            "log": str(task.log),
            "environment": variables,
        },
    )
    return token

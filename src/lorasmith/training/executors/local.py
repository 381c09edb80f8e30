"""Processes of this machine, one on each device at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from lorasmith.training.executors.base import Ended, Executor, Handle, Session, Task
from lorasmith.training.job_process import detached, environment, stop_process

CLOCK_TOLERANCE = 1.0
"""Seconds by which two readings of the start of a process may differ."""


class LocalExecutor(Executor):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    devices: tuple[str, ...] = ()
    """Such as `cuda:0`. Default: all GPUs, else the CPU."""

    @contextmanager
    def open(self, folder: Path, jobs: int | None, device: str) -> Iterator[Session]:
        devices = list(self.devices) or [device]
        if devices == ["auto"]:
            # torch is not needed, and slow to import, if devices are given
            from lorasmith.core.devices import all_devices

            devices = all_devices() or ["cpu"]
        yield LocalSession([devices[i % len(devices)] for i in range(jobs or len(devices))])


class LocalSession(Session):
    """`slots`: the device of each of the processes at a time."""

    def __init__(self, slots: Sequence[str]) -> None:
        self.slots = list(slots)

    def free_device(self, occupied: Sequence[str]) -> str | None:
        free = list(self.slots)
        of_the_config = 0
        for device in occupied:
            if device in free:
                free.remove(device)
            else:
                of_the_config += 1
        # where the config of a run names its device, it takes the place of any
        return free[of_the_config] if of_the_config < len(free) else None

    def threads(self) -> int | None:
        # by default each process would use all cores, and several would slow each other down
        on_cpu = sum(device == "cpu" for device in self.slots)
        return None if on_cpu <= 1 else max(1, (os.cpu_count() or 1) // on_cpu)

    def start(self, tasks: Sequence[Task]) -> list[Handle]:
        return [start_process(task) for task in tasks]

    def find(self, reference: Mapping[str, Any], task: Task) -> Handle | None:
        process = find_process(reference.get("process"), reference.get("created"))
        return None if process is None else FoundHandle(process, task.run)


class LocalHandle:
    """A process that this program has started."""

    def __init__(self, process: subprocess.Popen[Any], run: Path) -> None:
        self.process, self.run = process, run
        try:
            self.created = psutil.Process(process.pid).create_time()
        except psutil.Error:  # it has ended already
            self.created = 0.0

    @property
    def reference(self) -> dict[str, Any]:
        return {"process": self.process.pid, "created": self.created}

    def poll(self) -> Ended | None:
        code = self.process.poll()
        return None if code is None else Ended(code)

    def stop(self, at_once: bool = False) -> None:
        if self.process.poll() is None:
            stop_process(self.process, self.run, at_once)

    def news(self) -> str:
        return ""


class FoundHandle:
    """A process that an earlier program has started; its exit code cannot be known."""

    def __init__(self, process: psutil.Process, run: Path) -> None:
        self.process, self.run = process, run
        self.reference = {"process": process.pid, "created": process.create_time()}

    def poll(self) -> Ended | None:
        return None if find_process(**self.reference) is not None else Ended(None)

    def stop(self, at_once: bool = False) -> None:
        if self.poll() is None:
            stop_process(self.process, self.run, at_once)

    def news(self) -> str:
        return ""


def start_process(task: Task) -> LocalHandle:
    """Start a task in a process that outlives this one."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    env = environment()
    if task.threads is not None:
        env.setdefault("OMP_NUM_THREADS", str(task.threads))
    with task.log.open("wb" if task.empty_log else "ab") as log:
        process = subprocess.Popen(
            list(task.command),
            cwd=task.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            # Ctrl-C in the terminal must not reach the process: whoever has started it stops it
            **detached(),
        )
    return LocalHandle(process, task.run)


def find_process(process: object, created: object) -> psutil.Process | None:
    """The process with a number and a time of its start; None if it has ended."""
    if not isinstance(process, int) or not isinstance(created, int | float):
        return None
    try:
        found = psutil.Process(process)
        # the number may be that of another process by now
        is_same = abs(found.create_time() - created) < CLOCK_TOLERANCE
        return found if is_same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None

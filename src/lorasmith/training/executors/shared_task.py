"""A task in a folder that the nodes of a cluster share: what its starter writes, and what the node does with it.

| file | written by | content |
| --- | --- | --- |
| `task.json` | the starter | the command, its folder, its environment, and a token |
| `started.json` | the node | its name and the attempt; touched as a heartbeat |
| `ended.json` | the node | the exit code |
| `stop` | whoever wants the run to end | `step` or `now` |

Nothing here knows an engine: it only has to call a `SharedTask` on a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lorasmith.core.lock_holder import HEARTBEAT, STALE_AFTER, holder_in
from lorasmith.core.store import write_text
from lorasmith.training.job_process import STOPPED_EXIT_CODE, environment

TASK, STARTED, ENDED, STOP = "task.json", "started.json", "ended.json", "stop"
RUN_CONFIG = "config.toml"
"""In the folder of a run: it was begun."""
LOOK_INTERVAL = 0.5
"""Seconds between two looks at the process and at the file `stop`."""
PATIENCE = 3 * STALE_AFTER
"""Seconds to wait for a lost node's process to give the folder of the run free."""
AT_STEP, NOW = "step", "now"


class NotSharedError(Exception):
    """The folder of the task is not the same on the node."""


class InterruptedRunError(Exception):
    """Somebody other than its starter has stopped the run, which has saved a checkpoint."""


class SharedTask:
    """Runs the task of a folder on this node, and returns its exit code."""

    def __init__(self, folder: str, token: str) -> None:
        self.folder, self.token = folder, token
        self._process: subprocess.Popen[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "token": self.token, "_process": None}

    def __call__(self) -> int:
        """Raises NotSharedError and InterruptedRunError."""
        folder = Path(self.folder)
        task = read_json(folder / TASK)
        if task is None or task.get("token") != self.token:
            raise NotSharedError(
                f"{folder} is not the same folder on {socket.gethostname()}; all nodes must share the folder of the "
                "sweep or queue, the images and the base"
            )
        code = ended_with(folder, self.token)
        if code is not None:
            return code
        attempt = int((read_json(folder / STARTED) or {}).get("attempt", 0)) + 1
        write_json(folder / STARTED, {"host": socket.gethostname(), "attempt": attempt, "token": self.token})
        self._wait_for_folder(Path(task["run"]))
        code = STOPPED_EXIT_CODE if requested_stop(folder) else self._run(task)
        if code == STOPPED_EXIT_CODE and not requested_stop(folder):
            raise InterruptedRunError(f"the run was stopped on {socket.gethostname()}; it has saved a checkpoint")
        write_json(folder / ENDED, {"code": code, "token": self.token})
        return code

    def save(self) -> None:
        """Let the run end after its current step, with a checkpoint, and wait for that."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()

    def _run(self, task: dict[str, Any]) -> int:
        """Run the process to its end."""
        folder, begun = Path(self.folder), (Path(task["run"]) / RUN_CONFIG).is_file()
        command = task["resume"] if task["resume"] and begun else task["command"]
        # the node's own Python, which may be at another place
        command = [sys.executable if part == task["python"] else part for part in command]
        # by its path, so that it starts without importing anything of ours
        tied = [sys.executable, "-P", str(Path(__file__).with_name("tied.py")), str(os.getpid())]
        with Path(task["log"]).open("ab") as log:
            process = subprocess.Popen(
                [*tied, *command],
                cwd=task["directory"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment(), **task["environment"]},
                start_new_session=True,
            )
        self._process = process
        try:
            return self._watch(process, folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _watch(self, process: subprocess.Popen[Any], folder: Path) -> int:
        """The exit code of the process, which is stopped when somebody asks for it."""
        obeyed, next_heartbeat = "", 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_INTERVAL)
            request = requested_stop(folder)
            if request and request != obeyed:
                obeyed = request
                process.send_signal(signal.SIGKILL if request == NOW else signal.SIGINT)
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = time.monotonic() + HEARTBEAT
                touch(folder / STARTED)

    def _wait_for_folder(self, run: Path) -> None:
        """Wait until no process of a lost node holds the folder of the run."""
        deadline = time.monotonic() + PATIENCE
        while holder_in(run) is not None and time.monotonic() < deadline and not requested_stop(Path(self.folder)):
            touch(Path(self.folder) / STARTED)
            time.sleep(LOOK_INTERVAL)


def requested_stop(folder: Path) -> str:
    """`step` or `now` if somebody has requested that the task ends; else empty."""
    try:
        return (folder / STOP).read_text(encoding="utf-8").strip() or AT_STEP
    except OSError:
        return ""


def request_stop(folder: Path, at_once: bool = False) -> None:
    """Ask a task to end: after the current step, or at once."""
    write_text(folder / STOP, NOW if at_once else AT_STEP)


def ended_with(folder: Path, token: str) -> int | None:
    """The exit code of a task that has ended; None if it has not, or that was an earlier task in this folder."""
    ended = read_json(folder / ENDED) or {}
    code = ended.get("code")
    return code if isinstance(code, int) and ended.get("token") == token else None


def has_sign_of_life(folder: Path) -> bool:
    """Whether a node has lately given a sign that it is at work on the task."""
    try:
        return time.time() - (folder / STARTED).stat().st_mtime < STALE_AFTER
    except OSError:
        return False


def touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def write_json(path: Path, table: dict[str, Any]) -> None:
    write_text(path, json.dumps(table, indent=1))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON table; None if it is not there or damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None

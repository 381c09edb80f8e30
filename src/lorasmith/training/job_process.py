"""Training runs that are started in processes of their own: by a sweep, by a queue."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Protocol

from lorasmith.core.errors import LorasmithError
from lorasmith.training.output.control import STOP, send_request

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SLURM_STEP_NUM_TASKS")
"""Environment variables that make a process a rank of a distributed run. Such a run is a single process."""
STOPPED_EXIT_CODE = 130
WINDOWS = os.name == "nt"
LONGEST_MESSAGE = 300


class StoppableProcess(Protocol):
    """A process of subprocess or psutil."""

    def kill(self) -> None: ...

    def send_signal(self, sig: int, /) -> None: ...


def environment() -> dict[str, str]:
    """The environment of a run: who starts it may itself run under a launcher that sets the variables of a rank."""
    return {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process in a session of its own, which no signal to the terminal reaches."""
    if WINDOWS:
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS  # type: ignore[attr-defined]
        return {"creationflags": flags}
    return {"start_new_session": True}


def stop_process(process: StoppableProcess, run: Path, at_once: bool = False, windows: bool = WINDOWS) -> None:
    """End a run in `process` after its current step, with a checkpoint. With `at_once`, kill it.

    `run`: its folder. Windows has no signal that a process in another console group would get, so there the run is
    stopped by the request that it reads after each step.
    """
    if at_once:
        process.kill()
    elif windows:
        try:
            send_request(run, STOP)
        except LorasmithError:  # it has not begun, so there is nothing to save
            process.kill()
    else:
        process.send_signal(signal.SIGINT)


def last_error(log: Path, code: int | None) -> str:
    """The last error in the output of a process, in one line. Without one, the last line, or else the exit code."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    error_starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    # an error can have several lines
    error_lines = lines[error_starts[-1] :] if error_starts else lines[-1:]
    message = " ".join(error_lines).removeprefix("error:").strip()
    return message[:LONGEST_MESSAGE] or f"exit code {code}"

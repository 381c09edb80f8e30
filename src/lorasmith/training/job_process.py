"""Training runs that are started in processes of their own: by a sweep, by a queue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SLURM_STEP_NUM_TASKS")
"""Environment variables that make a process a rank of a distributed run. Such a run is a single process."""
STOPPED_EXIT_CODE = 130
LONGEST_MESSAGE = 300


def environment() -> dict[str, str]:
    """The environment of a run: who starts it may itself run under a launcher that sets the variables of a rank."""
    return {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process in a session of its own, which no signal to the terminal reaches."""
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS  # type: ignore[attr-defined]
        return {"creationflags": flags}
    return {"start_new_session": True}


def last_error(log: Path, code: int | None) -> str:
    """The last error in the output of a process, in one line. Without one, the last line, or else the exit code."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    error_starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    # an error can have several lines
    error_lines = lines[error_starts[-1] :] if error_starts else lines[-1:]
    message = " ".join(error_lines).removeprefix("error:").strip()
    return message[:LONGEST_MESSAGE] or f"exit code {code}"

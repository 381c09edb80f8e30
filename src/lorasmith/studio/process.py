"""Commands of the command line that the studio starts: in a process of their own, which outlives the studio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.core.errors import ConfigError, LorasmithError, Problem

CONSOLE = "console.log"
"""What a run that the studio started has printed, in its folder."""
TAIL = 32 << 10
"""Bytes of a log that are shown."""
CHECK_SECONDS = 900.0
"""How long a command may take whose result is waited for."""


class Processes:
    """The processes that this studio has started, by a key such as the folder of the run.

    They are in sessions of their own: no signal to the studio reaches them.
    """

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self._lock = threading.Lock()

    def start(self, key: str, arguments: Sequence[str], log: Path) -> int:
        """Start `lorasmith ARGUMENTS`, which prints into the end of the file `log`; returns the number of the process.

        Raises LorasmithError if the process of this key is still running.
        """
        with self._lock:
            running = self._processes.get(key)
            if running is not None and running.poll() is None:
                raise LorasmithError(f"{key}: is being started already")
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command(arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    **detached(),
                )
            self._processes[key] = process
            return process.pid

    def exit_code(self, key: str) -> int | None:
        """The exit code of the process of a key; None if it is running or there is none."""
        process = self._processes.get(key)
        return None if process is None else process.poll()

    def is_running(self, key: str) -> bool:
        """Whether the process of a key is running."""
        process = self._processes.get(key)
        return process is not None and process.poll() is None


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of this program with these arguments. No shell is involved."""
    return [sys.executable, "-m", "lorasmith", *arguments]


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process in a session of its own."""
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS  # type: ignore[attr-defined]
        return {"creationflags": flags}
    return {"start_new_session": True}


def run_json(arguments: Sequence[str], seconds: float = CHECK_SECONDS) -> dict[str, Any]:
    """The JSON that `lorasmith ARGUMENTS --json` prints. The server itself does not import torch.

    Raises ConfigError and LorasmithError with what the command says.
    """
    try:
        done = subprocess.run(
            command([*arguments, "--json"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LorasmithError(f"lorasmith {arguments[0]} has not ended within {seconds:.0f} s") from None
    try:
        result = json.loads(done.stdout.decode("utf-8", errors="replace"))
    except ValueError:
        last = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        raise LorasmithError(f"lorasmith {arguments[0]} failed with code {done.returncode}: {last[0]}") from None
    # a report may have an `error` too: the number by which the new file differs from the old one
    message = result.get("error")
    if isinstance(message, str) and result.get("problems"):
        raise ConfigError([Problem(**problem) for problem in result["problems"]])
    if isinstance(message, str):
        raise LorasmithError(message)
    return result


def read_tail(path: Path, most: int = TAIL) -> str:
    """The end of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read(most).decode("utf-8", errors="replace")
    except OSError:
        return ""
    # the first line is cut in the middle
    return text if size <= most else text.partition("\n")[2]

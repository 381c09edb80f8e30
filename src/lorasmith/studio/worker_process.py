"""A helper process of the studio that keeps torch, or a model, loaded: it answers requests one after the other.

It ends with the studio, when it has had nothing to do for a while, and when a request takes too long.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from lorasmith.core.errors import ConfigError, LorasmithError, Problem

IDLE_SECONDS = 600.0
"""After this time without requests the process ends, and its memory is free."""


class Worker:
    """A process that is started with the first request. `command`: what it runs; it reads a JSON request a line."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS, command: list[str] | None = None) -> None:
        self._command = command or [sys.executable, "-m", "lorasmith.studio.worker"]
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self.progress: dict[str, Any] = {}
        """What the request under way has reported last: `done`, `total`, `note`, and `files` that are written."""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def number(self) -> int | None:
        """The number of the process; None if it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def cancel(self) -> None:
        """Ask the request under way to stop; it is then answered with an error, and the process stays."""
        process = self._process
        if process is not None and process.stdin is not None and self._lock.locked():
            with contextlib.suppress(OSError):
                process.stdin.write('{"method": "cancel"}\n')
                process.stdin.flush()

    def ask(self, method: str, seconds: float, **parameters: Any) -> Any:
        """The result of a method of `worker.py`. Requests wait for each other.

        Raises ConfigError and LorasmithError for what the user can repair, also if it takes more than `seconds`.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            self.progress = {}
            try:
                process.stdin.write(json.dumps({"method": method, "parameters": parameters}) + "\n")
                process.stdin.flush()
                return result_of(self._answer(method, seconds))
            except OSError:
                self.end()
                raise LorasmithError(f"{method}: the helper process has ended; try again") from None
            finally:
                self.progress = {}
                self._end_when_idle()

    def end(self) -> None:
        """End the process at once; a request under way is answered with an error."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            # until it is gone, it looks as if it could take requests
            process.wait()

    def _answer(self, method: str, seconds: float) -> dict[str, Any]:
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                self.end()
                raise LorasmithError(f"{method}: has not ended within {seconds:.0f} s") from None
            if line is None:
                self.end()
                raise LorasmithError(f"{method}: was stopped, or the helper process has ended (memory?)")
            answer = json.loads(line)
            if "progress" not in answer:
                return answer
            self.progress = answer["progress"]

    def _started(self) -> subprocess.Popen[str]:
        if self._timer is not None:
            self._timer.cancel()
        if self._process is None or self._process.poll() is not None:
            lines: queue.Queue[str | None] = queue.Queue()
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
            threading.Thread(target=read_lines, args=(process, lines.put), daemon=True).start()
            self._process, self._lines = process, lines
        return self._process

    def _end_when_idle(self) -> None:
        self._timer = threading.Timer(self._idle_seconds, self.end)
        self._timer.daemon = True
        self._timer.start()


def read_lines(process: subprocess.Popen[str], put: Callable[[str | None], None]) -> None:
    """Pass on each line that a process prints, and None at its end."""
    assert process.stdout is not None
    for line in process.stdout:
        put(line)
    process.wait()
    put(None)


def result_of(answer: dict[str, Any]) -> Any:
    """The result in an answer. Raises what the answer says that was wrong."""
    if answer.get("problems"):
        raise ConfigError([Problem(**problem) for problem in answer["problems"]])
    if "error" in answer:
        raise LorasmithError(str(answer["error"]))
    return answer["result"]

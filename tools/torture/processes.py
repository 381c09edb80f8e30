"""The processes of one run: their start, their limits, and how they ended."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

LIMIT = 300
"""Seconds after which a process is taken for hung."""
GRACE = 60
"""Seconds that the other ranks have after one has failed, as a launcher gives them."""
EXIT_CODES = (0, 1, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
"""What a process may end with; a bug ends it with 70."""
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
"""Constants of Linux' prctl(2) and capabilities(7)."""

# Runs the command line, and a piece of Python at the n-th operation on a file in the folder of the run.
AT_OPERATION = """
import os, sys
folder, at, action = sys.argv[1], int(sys.argv[2]), sys.argv[3]
operations = 0
def watch(event, arguments):
    global operations
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and folder in str(arguments[0]):
        operations += 1
        if operations == at:
            exec(action, {})
sys.addaudithook(watch)
sys.argv = ["lorasmith", *sys.argv[4:]]
from lorasmith.cli.main import main
main()
"""


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended."""

    codes: tuple[int, ...]
    """Exit codes, by rank."""
    messages: str
    """What they wrote to stderr."""

    @property
    def finished(self) -> bool:
        """Whether all processes ended without an error."""
        return not any(self.codes)

    @property
    def fault(self) -> str:
        """What is wrong with the end of the processes, for people; empty if nothing is."""
        if "Traceback" in self.messages or any(code not in EXIT_CODES for code in self.codes):
            return f"exit codes {', '.join(map(str, self.codes))}: {self.messages[-600:]}"
        return ""


class Started:
    """The processes of a command: one, or one for each of several ranks."""

    def __init__(self, command: list[str], ranks: int, options: Mapping[str, Any]) -> None:
        environment: dict[str, str] = dict(options.get("env") or os.environ)
        rest = {key: value for key, value in options.items() if key != "env"}
        if ranks > 1:
            environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.files: list[IO[bytes]] = []
        self.processes: list[subprocess.Popen[Any]] = []
        for rank in range(ranks):
            rank_of = {"RANK": str(rank)} if ranks > 1 else {}
            # a file and not a pipe: nobody reads while the processes run
            file = tempfile.TemporaryFile()  # noqa: SIM115
            self.files.append(file)
            process = subprocess.Popen(
                command, env=environment | rank_of, stdout=subprocess.DEVNULL, stderr=file, **rest
            )
            self.processes.append(process)

    def send(self, number: int, ranks: list[int]) -> None:
        """Send a signal to some ranks."""
        for rank in ranks:
            self.processes[rank].send_signal(number)

    def running(self) -> bool:
        """Whether no process has ended."""
        return all(process.poll() is None for process in self.processes)

    def wait(self) -> Ended:
        """Wait for the end of all processes. A hung one is killed, and counts as a fault."""
        deadline = time.monotonic() + LIMIT
        hung = ""
        while any(process.poll() is None for process in self.processes):
            # like a launcher, which ends the other ranks some time after one of them has failed
            if any(process.poll() for process in self.processes):
                deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                hung = "\nTraceback: a process hung and was killed"
                for process in self.processes:
                    process.kill()
            time.sleep(0.02)

        messages: list[str] = []
        for file in self.files:
            file.seek(0)
            messages.append(file.read().decode("utf-8", "replace"))
            file.close()
        return Ended(tuple(process.returncode for process in self.processes), "".join(messages) + hung)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(arguments: list[str], ranks: int = 1, **options: Any) -> Started:
    """Start the command line. `options`: those of subprocess.Popen."""
    return Started([sys.executable, "-m", "lorasmith", *arguments], ranks, options)


def run(arguments: list[str], ranks: int = 1, **options: Any) -> Ended:
    """Run the command line until it ends."""
    return start(arguments, ranks, **options).wait()


def run_with_action(arguments: list[str], folder: Path, at: int, action: str, ranks: int = 1, **options: Any) -> Ended:
    """Run the command line, and `action` (Python) in the process at the n-th operation on a file in `folder`."""
    script = [sys.executable, "-c", AT_OPERATION, str(folder), str(at), action]
    return Started([*script, *arguments], ranks, options).wait()


def limited(limit: int, value: int) -> Callable[[], None]:
    """A function that sets a limit of the system for a child process."""
    import resource

    return lambda: resource.setrlimit(limit, (value, value))


def obey_permissions() -> None:
    """Let the permissions of files hold for a child process of root, too."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)

"""Runs of the command line under guard: in another process, with limits, and watched.

The process is a fork of this one, in which everything is imported already, so that a run takes milliseconds. A run may
end with success or an error of ours; everything else is a fault: a traceback, a hang, too much memory, a file outside
of its folder, an escape sequence on the terminal.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import select
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Seconds of computing that a run may take beyond those that its subject allows."""
SLACK = 96 << 20
"""Bytes beyond twice the need of an input: buffers of libraries, modules that are imported late."""
CEILING = 4 << 30
"""Bytes of addresses beyond which an allocation fails, so that a run away harms nobody."""
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FRAME = re.compile(r'File "[^"]*?/src/(lorasmith/[^"]*)", line (\d+), in (\S+)')
SUCCESS, MISTAKE, USAGE, BUG = 0, 1, 2, 70
"""Exit codes of the program; only the last is a fault."""
CASES_PER_PROCESS = 50
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
RUNS_CODE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")


@dataclass(frozen=True)
class Case:
    """What the program is given. `need`: bytes of memory that the input honestly needs; `seconds`: more than usual."""

    arguments: tuple[str, ...]
    need: int = 1 << 20
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """`fault`: empty, or traceback, crash, hang, memory, stray, escape. `kind`: what the fault is grouped by."""

    code: int
    fault: str = ""
    kind: str = ""
    output: str = ""


class Worker:
    """Runs cases in a process of its own, which is replaced when a case ends it, and after some time."""

    def __init__(self, folder: Path, allowed: tuple[Path, ...]) -> None:
        """`folder`: the working folder of the cases. `allowed`: further folders that they may write to."""
        self.folder = folder
        self.allowed = (folder, *allowed)
        self.log = folder.with_name(f"{folder.name}.log")
        self.child = 0
        self.cases = 0
        self.requests, self.reports = -1, -1

    def run(self, case: Case) -> Outcome:
        """Run the command line with the files that are in the folder."""
        if not self.child or self.cases == CASES_PER_PROCESS:
            self.stop()
            self.start()
        self.cases += 1
        self.log.write_bytes(b"")
        os.write(self.requests, json.dumps([case.arguments, case.seconds]).encode() + b"\n")
        ready, _, _ = select.select([self.reports], [], [], 15 * (SECONDS + case.seconds))
        report = os.read(self.reports, 1 << 16) if ready else b""
        output = self.log.read_text("utf-8", errors="replace")
        if report:
            return judge(case, json.loads(report), output)
        if not ready:
            os.kill(self.child, signal.SIGKILL)
        status = self.stop()
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if not ready or ended_by == signal.SIGPROF:
            return Outcome(-1, "hang", place(output), output)
        return Outcome(-1, "crash", signal.Signals(ended_by).name if ended_by else f"status {status}", output)

    def start(self) -> None:
        """Fork the process."""
        (receiver, self.requests), (self.reports, sender) = os.pipe(), os.pipe()
        self.cases = 0
        sys.stdout.flush()
        sys.stderr.flush()
        self.child = os.fork()
        if self.child == 0:
            os.close(self.requests)
            os.close(self.reports)
            try:
                serve(self.folder, self.allowed, self.log, receiver, sender)
            except BaseException:
                traceback.print_exc()
            finally:
                # the child must never go on with what the parent does
                os._exit(BUG)
        os.close(receiver)
        os.close(sender)

    def stop(self) -> int:
        """End the process; returns its status."""
        if not self.child:
            return 0
        os.close(self.requests)
        os.close(self.reports)
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        return status


def serve(folder: Path, allowed: tuple[Path, ...], log: Path, receiver: int, sender: int) -> None:
    """Run each case that is requested, and send what was observed; ends when there are no further requests."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, descriptor), (2, descriptor)):
        os.dup2(source, number)
    # computing time, not that on the clock: other work on the machine does not count. The signal ends C code too.
    faulthandler.register(signal.SIGPROF, chain=True)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + CEILING, size + CEILING))
    strays: list[str] = []
    watch(tuple(f"{path.resolve()}{os.sep}" for path in allowed), strays)
    environment = dict(os.environ)
    with os.fdopen(receiver) as requests:
        for line in requests:
            arguments, seconds = json.loads(line)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            strays.clear()
            before = reset_peak_memory()
            code = call(arguments, seconds)
            os.write(sender, json.dumps([code, peak_memory() - before, strays[:3]]).encode())


def call(arguments: list[str], seconds: float) -> int:
    """The exit code of a command line that runs in this process."""
    from lorasmith.cli.main import main

    sys.argv = ["lorasmith", *arguments]
    code: Any = 0
    signal.setitimer(signal.ITIMER_PROF, SECONDS + seconds)
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = BUG
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code)


def reset_peak_memory() -> int:
    """Count the peak from now on; returns the bytes in memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """Most bytes that this process has had in memory since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def watch(allowed: tuple[str, ...], strays: list[str]) -> None:
    """From now on, enter what is written outside of the allowed folders into `strays`, and what code is started."""

    def note(path: Any, event: str) -> None:
        if isinstance(path, int):
            return
        text = os.path.abspath(os.fsdecode(path))
        if not f"{text}{os.sep}".startswith((*allowed, "/dev/null", "/dev/shm/", "/proc/self")):
            strays.append(f"{event} {text}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES:
                note(path, event)
        elif event in CHANGES:
            note(arguments[0], event)
            if event == "os.rename":
                note(arguments[1], event)
        elif event in RUNS_CODE:
            strays.append(f"{event} {arguments[0]}")

    sys.addaudithook(hook)


def judge(case: Case, report: Any, output: str) -> Outcome:
    """The outcome of a run that came to its end, from what was observed and what it printed."""
    code, memory, strays = report
    if code not in (SUCCESS, MISTAKE, USAGE) or "Traceback (most recent call last)" in output:
        return Outcome(code, "traceback", place(output), output)
    if strays:
        return Outcome(code, "stray", re.sub(r"\d+", "0", strays[0]), output)
    if memory > 2 * case.need + SLACK:
        return Outcome(code, "memory", f"{case.arguments[0]}: {memory >> 20} MiB", output)
    if CONTROL.search(output):
        return Outcome(code, "escape", case.arguments[0], output)
    if code == MISTAKE and "error" not in output.lower() and "problem" not in output.lower():
        return Outcome(code, "silence", case.arguments[0], output)
    return Outcome(code)


def place(output: str) -> str:
    """The last line of our code in a traceback, and the exception."""
    frames = FRAME.findall(output)
    lines = [
        line for line in output.splitlines() if re.match(r"[A-Za-z_.]+(Error|Exception|Warning|Iteration|Exit)\b", line)
    ]
    if output.startswith("Current thread") or "most recent call first" in output:
        frames.reverse()
    where = ":".join(frames[-1]) if frames else "outside"
    return f"{where}: {lines[-1][:110] if lines else ''}"

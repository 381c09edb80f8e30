"""Who has locked a folder: a process of this machine, or one of another machine that shares the folder.

The file of a lock names the process and its machine. On this machine the system knows whether that process lives. A
process of another machine is known to live by its *heartbeat*: it touches the file every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = ".lock"
HEARTBEAT = 10.0
"""Seconds between two heartbeats."""
STALE_AFTER = 60.0
"""Seconds without a heartbeat after which a process of another machine counts as dead. It ends by itself if it finds
its lock taken."""
CLOCK_TOLERANCE = 2.0
"""Seconds by which the clocks of files and of processes may differ."""
CONTENT = re.compile(r"(\d{1,10})(?:\n([^\n]{1,300}))?\n?")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """The process that a lock's file names."""

    number: int
    machine: str
    """As `this_machine` gives it; empty in files of earlier versions, which name no machine."""

    @property
    def is_here(self) -> bool:
        """Whether the process is one of this machine."""
        return self.machine in ("", this_machine())

    @property
    def host(self) -> str:
        """The name of the machine."""
        return self.machine.split("/")[0]

    def __str__(self) -> str:
        return f"number {self.number}" if self.is_here else f"number {self.number} on {self.host}"


@cache
def this_machine() -> str:
    """The name of this machine, and a number that its kernel draws anew at each start, since names are not unique."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}/{boot}"


def this_process() -> Holder:
    """This process, as the file of a lock names it."""
    return Holder(os.getpid(), this_machine())


def content_of_lock() -> str:
    """What this process writes into the file of a lock."""
    return f"{os.getpid()}\n{this_machine()}\n"


def read_holder(path: Path) -> Holder | None:
    """The process that the file of a lock names, dead or alive; None if it names none."""
    try:
        # Windows does not let others read a locked file
        match = CONTENT.fullmatch(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if match is None else Holder(int(match[1]), match[2] or "")


def holder_in(folder: Path) -> Holder | None:
    """The process that has locked `folder`; None if none has.

    The file of a process that was killed stays, and its number may be that of another process by now, which is then
    younger than the file. Whether a process of another machine lives is judged with the clock of this one, which may
    differ from the file server's by seconds, not by minutes.
    """
    path = folder / NAME
    holder = read_holder(path)
    if holder is None:
        return None
    try:
        written = path.stat().st_mtime
    except OSError:
        return None
    if not holder.is_here:
        return holder if time.time() - written < STALE_AFTER else None
    return holder if is_process_since(holder.number, written) else None


def is_process_since(number: int, written: float) -> bool:
    """Whether a process of this machine lives, and has begun before `written`, seconds since 1970."""
    # imported here: only who looks at the runs of others needs it
    import psutil

    try:
        process = psutil.Process(number)
        started = process.create_time()
        is_alive = process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return False
    return is_alive and started <= written + CLOCK_TOLERANCE


def has_heartbeat(path: Path) -> bool:
    """Whether the file of a lock was touched lately, by the clock of the file server.

    Raises OSError if nothing can be written beside it.
    """
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    clock = path.with_name(f"{path.name}.clock.{os.getpid()}")
    try:
        clock.touch()
        return clock.stat().st_mtime - written < STALE_AFTER
    finally:
        with contextlib.suppress(OSError):
            clock.unlink()


@contextmanager
def heartbeat(path: Path) -> Generator[None]:
    """Inside the block, the file of a lock that this process holds is touched again and again.

    If another process has taken the lock over, since this machine was asleep or cut off, this process ends at once, so
    that no two write into one folder.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            holder = read_holder(path)
            if holder is not None and holder != this_process() and not ended.is_set():
                end_at_once(path, holder)
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=HEARTBEAT)


def end_at_once(path: Path, holder: Holder) -> None:
    """End this process without writing anything more."""
    message = (
        f"error: {path.parent} was taken over by another process ({holder}), since this one gave no sign for "
        f"{STALE_AFTER:.0f} seconds. This process ends at once; the other continues from the last checkpoint.\n"
    )
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(message)
        sys.stderr.flush()
    os._exit(1)

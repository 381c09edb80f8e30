"""A folder that one process at a time may write to."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import raise_write_error

NAME = ".lock"
CLOCK_TOLERANCE = 2.0
"""Seconds by which the clocks of files and of processes may differ."""


@contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Inside the block no other process can lock `folder`, which is made if it is not there.

    The system releases the lock of a process that is killed. `what`: the setting that names the folder, for messages.
    Raises LorasmithError if another process holds the lock, and WriteError if the folder cannot be made.
    """
    missing = not folder.exists()
    if not missing and not folder.is_dir():
        raise LorasmithError(f"{what}: {folder} is a file; it must be a folder, or a path that does not exist yet")
    path = folder / NAME
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise LorasmithError(
            f"{what}: {folder} is in use by another process{holder_of(path)}; wait for its end, or choose another"
        ) from None
    except OSError as error:
        raise_write_error(error, folder)

    try:
        # only for the message above; Windows does not let others read a locked file
        with contextlib.suppress(OSError):
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        # removed while it is still held: who waits for the lock notices that its file is gone
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        # a run that ended before it wrote anything leaves nothing behind
        if missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def find_holder(folder: Path) -> int | None:
    """The number of the process that has locked `folder`; None if none has.

    The file of a process that was killed stays, and its number may be that of another process by now, which is then
    younger than the file.
    """
    path = folder / NAME
    try:
        number = re.fullmatch(r"(\d{1,10})\n?", path.read_text(encoding="ascii"))
        written = path.stat().st_mtime
    except (OSError, ValueError):
        return None
    if number is None:
        return None
    # imported here: only who looks at the runs of others needs it
    import psutil

    try:
        process = psutil.Process(int(number[1]))
        started = process.create_time()
        is_alive = process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return None
    return process.pid if is_alive and started <= written + CLOCK_TOLERANCE else None


def holder_of(path: Path) -> str:
    """The number of the process that holds a lock, as part of a message; empty if it cannot be read."""
    try:
        number = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
    return f" (number {number})" if number else ""

"""A folder that one process at a time may write to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import raise_write_error

NAME = ".lock"


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


def holder_of(path: Path) -> str:
    """The number of the process that holds a lock, as part of a message; empty if it cannot be read."""
    try:
        number = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
    return f" (number {number})" if number else ""

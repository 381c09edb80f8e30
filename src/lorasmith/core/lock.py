"""A folder that one process at a time may write to, also where several machines share it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock_holder import (
    NAME,
    STALE_AFTER,
    content_of_lock,
    has_heartbeat,
    heartbeat,
    holder_in,
    read_holder,
)
from lorasmith.core.store import raise_write_error


@contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Inside the block no other process can lock `folder`, which is made if it is not there.

    The system releases the lock of a process that is killed. Where a file server keeps the lock of a machine that is
    gone, or does not share locks between machines, the heartbeat decides (`lock_holder`). `what`: the setting that
    names the folder, for messages. Raises LorasmithError if another process holds the lock, and WriteError if the
    folder cannot be made.
    """
    missing = not folder.exists()
    if not missing and not folder.is_dir():
        raise LorasmithError(f"{what}: {folder} is a file; it must be a folder, or a path that does not exist yet")
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(path, what)
    except OSError as error:
        raise_write_error(error, folder)
        raise

    try:
        # only for messages and other machines; Windows does not let others read a locked file
        with contextlib.suppress(OSError):
            path.write_text(content_of_lock(), encoding="utf-8")
        with heartbeat(path):
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


def acquire(path: Path, what: str) -> FileLock:
    """The acquired lock. Raises LorasmithError if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not is_of_a_lost_machine(path):
            raise in_use(path, what) from None
        # the file server keeps the lock of a machine that is gone; a new file has a lock of its own
        path.unlink(missing_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise in_use(path, what) from None
    holder = read_holder(path)
    # this machine got the lock although another one holds it, or held it until a moment ago
    if holder is not None and not holder.is_here and has_heartbeat(path):
        lock.release()
        raise LorasmithError(
            f"{what}: {path.parent} is in use by a process on {holder.host} (number {holder.number}); wait for its "
            f"end, or choose another. If {holder.host} has been switched off, try again in {STALE_AFTER:.0f} seconds"
        )
    return lock


def is_of_a_lost_machine(path: Path) -> bool:
    """Whether the lock is that of a process on another machine which has given no sign for long."""
    holder = read_holder(path)
    return holder is not None and not holder.is_here and not has_heartbeat(path)


def in_use(path: Path, what: str) -> LorasmithError:
    """The error for a folder that another process has locked."""
    holder = read_holder(path)
    named = "" if holder is None else f" ({holder})"
    return LorasmithError(
        f"{what}: {path.parent} is in use by another process{named}; wait for its end, or choose another"
    )


def find_holder(folder: Path) -> int | None:
    """The number of the process that has locked `folder`, on whichever machine; None if none has."""
    holder = holder_in(folder)
    return None if holder is None else holder.number

"""Files that are either the old version or the new one, never half of it.

Everything of value is written beside its place, synced to disk, and renamed over the old file; if the process is killed
or the disk is full, the old file stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from lorasmith.core.errors import LorasmithError


@contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A temporary path beside `path` to write a file to; on success it replaces `path`, on failure it is removed.

    Raises LorasmithError if the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # the content must be on disk before the name points to it, and the name before the caller goes on
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """A temporary folder beside `path`; on success it replaces `path` whole, on failure it is removed.

    Raises LorasmithError if the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        if path.exists():
            # a folder cannot be renamed over another one that holds files, so the old one steps aside first
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` puts at the path that it is given."""
    with atomic_path(path) as temporary:
        write(temporary)


def sha256_of(path: Path, start: int = 0) -> str:
    """SHA-256 of a file's bytes from `start` on, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some file systems cannot sync folders, or are read-only for this call; the file is then as safe as it can be
        if error.errno not in (errno.EINVAL, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def write_error(error: OSError, path: Path) -> LorasmithError:
    """The error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LorasmithError(
            f"{path}: the disk is full; nothing was overwritten and the last good files stay. "
            "Free some space, then continue with --resume."
        )
    return LorasmithError(f"{path}: cannot be written ({error.strerror or error})")

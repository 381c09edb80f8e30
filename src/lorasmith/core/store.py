"""Files that are either the old version or the new one, never half of it.

Everything of value is written beside its place, synced to disk, and renamed over the old file; if the process is killed
or the disk is full, the old file stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError

from lorasmith.core.errors import LorasmithError, WriteError

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>tmp|old)")
"""Names of the files and folders that `atomic_path` and `atomic_folder` write beside their place. The number is that of
the process."""
TORCH_WRITE_ERROR = re.compile("PytorchStreamWriter|iostream|inline_container|unable to open file")
"""What the RuntimeErrors of torch say when it cannot write its file, or open it again to check it."""
AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Constants of Linux' renameat2(2)."""


@contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A temporary path beside `path` to write a file to; on success it replaces `path`, on failure it is removed.

    Raises WriteError if the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = usual_mode(temporary)
        yield temporary
        temporary.chmod(mode)
        # the content must be on disk before the name points to it, and the name before the caller goes on
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except Exception as error:
        raise_write_error(error, path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """A temporary folder beside `path`; on success it replaces `path` whole, on failure it is removed.

    Raises WriteError if the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        mode = usual_mode(temporary / ".mode")
        (temporary / ".mode").unlink()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
                sync(file)
        # a folder cannot be renamed over another one that holds files; where the two cannot change places in one
        # operation, the old one steps aside first
        if not path.exists():
            os.replace(temporary, path)
        elif not exchange(temporary, path):
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        sync(path.parent)
    except Exception as error:
        raise_write_error(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def usual_mode(path: Path) -> int:
    """The permissions that a new file at `path` gets from the umask and its folder; creates the file.

    Some libraries give their files to the owner alone (safetensors), which would lock out a web server or a colleague.
    """
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one operation, so that neither is missing at any moment.

    Returns false, and changes nothing, where the system or the file system cannot do it.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder and the folders in it, and put back a folder that had stepped aside
    for one that was never completed.

    Nobody else may write there at the same time: the caller holds the folder's lock.
    """
    if not folder.is_dir():
        return
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            leftover = LEFTOVER.fullmatch(name)
            if leftover is None:
                continue
            path, place = Path(parent) / name, Path(parent) / leftover["name"]
            with contextlib.suppress(OSError):
                if leftover["kind"] == "old" and not place.exists():
                    path.rename(place)
                elif path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        folders[:] = [name for name in folders if not LEFTOVER.fullmatch(name)]


ABANDONED_AFTER = 60.0
"""Seconds without a change after which a temporary file counts as abandoned, if no process here has its number. One of
another machine that shares the folder is written within this time."""


def is_abandoned(path: Path, after: float = ABANDONED_AFTER) -> bool:
    """Whether a path is a temporary file of a process that is gone."""
    leftover = LEFTOVER.fullmatch(path.name)
    if leftover is None or leftover["kind"] != "tmp" or psutil.pid_exists(int(leftover["process"])):
        return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime >= after
    return False


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder in which others may write at the same time."""
    for parent, _, files in os.walk(folder):
        for name in files:
            if is_abandoned(Path(parent) / name):
                with contextlib.suppress(OSError):
                    (Path(parent) / name).unlink()


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


def raise_write_error(error: Exception, path: Path) -> None:
    """Raises WriteError if `error` says that the file at `path` could not be written; otherwise returns.

    Libraries report the failure of a write in their own ways, all of which are known here.
    """
    if isinstance(error, LorasmithError):
        return
    number, reason = None, str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError):
        number, reason = error.errno, error.strerror or reason
    elif isinstance(error, SafetensorError):
        # the text ends with the number of the system: "No space left on device (os error 28)"
        in_text = re.search(r"\(os error (\d+)\)", reason)
        number = int(in_text[1]) if in_text else None
        reason = os.strerror(number) if number else reason
    elif not (isinstance(error, RuntimeError) and TORCH_WRITE_ERROR.search(str(error))):
        return

    if number in (errno.ENOSPC, errno.EDQUOT):
        raise WriteError(
            f"{path}: the disk is full. Files that were there before are unchanged. Free some space, then try again."
        ) from error
    raise WriteError(f"{path}: cannot be written ({reason})") from error

"""Either the old file or the new one."""

import errno
import os
from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_folder, atomic_path, sha256_of, write_text


def write_half(path: Path, error: Exception) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="disk is full"):
        write_half(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "f") as folder:
            (folder / f"{text}.txt").write_text(text)
    assert os.listdir(tmp_path / "f") == ["two.txt"]
    assert os.listdir(tmp_path) == ["f"]


def test_hash_from_an_offset(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"headertail")
    (tmp_path / "b").write_bytes(b"tail")
    assert sha256_of(tmp_path / "a", 6) == sha256_of(tmp_path / "b")

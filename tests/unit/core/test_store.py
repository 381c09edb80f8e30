"""Either the old file or the new one."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.core import store
from lorasmith.core.errors import LorasmithError, WriteError
from lorasmith.core.store import atomic_folder, atomic_path, remove_abandoned, remove_leftovers, sha256_of, write_text


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


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_file({"a": torch.ones(1 << 20)}, path),
        lambda path: torch.save({"a": torch.ones(1 << 20)}, path),
        lambda path: path.write_bytes(bytes(1 << 22)),
    ],
)
def test_each_library_that_meets_a_limit_gives_one_error(tmp_path: Path, save: Callable[[Path], object]) -> None:
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(WriteError, match=r"a: cannot be written \("), atomic_path(tmp_path / "a") as path:
            save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_replaced_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed at any operation leaves the old folder or the new one, after the next start."""
    for exchange in (store.exchange, lambda first, second: False):
        monkeypatch.setattr(store, "exchange", exchange)
        for killed_at in range(8):
            folder = tmp_path / f"{exchange.__name__}{killed_at}"
            folder.mkdir()
            kill_while_replacing(folder / "f", killed_at)
            remove_leftovers(folder)
            assert os.listdir(folder) == ["f"]
            assert os.listdir(folder / "f") in (["one.txt"], ["two.txt"])


def kill_while_replacing(path: Path, at: int) -> None:
    """In a child process, end it without any clean-up at the n-th operation on a file."""
    with atomic_folder(path) as folder:
        (folder / "one.txt").write_text("one")
    child = os.fork()
    if child == 0:
        operations = 0

        def counting(operation: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*arguments: object, **options: object) -> object:
                nonlocal operations
                if operations == at:
                    os._exit(0)
                operations += 1
                return operation(*arguments, **options)

            return wrapped

        os.replace, os.fsync, store.shutil.rmtree = map(counting, (os.replace, os.fsync, store.shutil.rmtree))
        with atomic_folder(path) as folder:
            (folder / "two.txt").write_text("two")
        os._exit(0)
    os.waitpid(child, 0)


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-00000001.12.tmp").mkdir(parents=True)
    (tmp_path / ".a.safetensors.7.tmp").touch()
    (tmp_path / "checkpoints" / ".hidden").touch()
    (tmp_path / "notes.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "checkpoints",
        "checkpoints/.hidden",
        "notes.tmp",
    ]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read."""
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.ones(1)}, temporary)
        write_text(tmp_path / "a.txt", "a")
        with atomic_folder(tmp_path / "f") as folder:
            (folder / "sub").mkdir()
            save_file({"a": torch.ones(1)}, folder / "sub" / "b.safetensors")
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"a.safetensors", "a.txt", "b.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


def test_a_file_that_cannot_be_opened_again_was_not_written(tmp_path: Path) -> None:
    """A new LoRA is read back; without file handles left that fails inside torch."""
    with pytest.raises(WriteError, match=r"cannot be written \(unable to open file"), atomic_path(tmp_path / "x"):
        raise RuntimeError("unable to open file </tmp/x> in read-only mode: Too many open files (24)")
    assert list(tmp_path.iterdir()) == []


def test_only_old_temporary_files_of_processes_that_are_gone_are_abandoned(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old, young, alive = (
        tmp_path / f"sub/.{name}.safetensors.{process}.tmp"
        for name, process in (("a", gone.pid), ("b", gone.pid), ("c", os.getpid()))
    )
    kept = tmp_path / "sub/a.safetensors"
    old.parent.mkdir()
    for path in (old, young, alive, kept):
        path.touch()
    for path in (old, alive, kept):
        os.utime(path, (1, 1))
    remove_abandoned(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([young, alive, kept])

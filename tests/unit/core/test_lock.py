"""One process at a time writes to a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.core import lock_holder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import NAME, find_holder, locked
from lorasmith.core.lock_holder import STALE_AFTER, Holder, holder_in
from tests.waiting import wait_until

HOLD = """
import sys, time
from pathlib import Path
from lorasmith.core.lock import NAME, find_holder, locked
with locked(Path(sys.argv[1]), "output"):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_another_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(
            LorasmithError, match=rf"output: .*run is in use by another process \(number {holder.pid}\)"
        ):
            locked(folder, "output").__enter__()
        holder.kill()
    with locked(folder, "output"):
        assert folder.is_dir()


def test_nothing_is_left(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "output"):
        pass
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "run", "output"):
        (tmp_path / "run" / "file").touch()
    assert os.listdir(tmp_path / "run") == ["file"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(LorasmithError, match=r"output: .*run is a file"), locked(tmp_path / "run", "output"):
        pass


def test_the_holder_of_a_folder_is_found_as_long_as_it_lives(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert find_holder(folder) is None
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert find_holder(folder) == holder.pid
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        # dead, but its parent has not taken notice
        assert find_holder(folder) is None


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_text(f"{os.getpid()}\n")
    assert find_holder(tmp_path) == os.getpid()
    # the machine was started anew since, and the number was given away again
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert find_holder(tmp_path) is None
    for text in ("", "no number\n", "99999999999999999999\n", "-1\n"):
        file.write_text(text)
        assert find_holder(tmp_path) is None


def lock_of_another_machine(folder: Path, seconds_ago: float = 0.0) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / NAME
    file.write_text("4711\ngpu03/another-boot\n")
    written = file.stat().st_mtime - seconds_ago
    os.utime(file, (written, written))
    return file


def test_a_folder_that_another_machine_uses_is_refused_although_the_system_gives_the_lock(tmp_path: Path) -> None:
    lock_of_another_machine(tmp_path / "run", seconds_ago=STALE_AFTER - 10)
    with (
        pytest.raises(LorasmithError, match=r"in use by a process on gpu03 \(number 4711\)"),
        locked(tmp_path / "run", "output"),
    ):
        pass
    assert find_holder(tmp_path / "run") == 4711
    assert holder_in(tmp_path / "run") == Holder(4711, "gpu03/another-boot")


def test_a_machine_that_gives_no_sign_any_more_holds_nothing(tmp_path: Path) -> None:
    lock_of_another_machine(tmp_path / "run", seconds_ago=STALE_AFTER + 10)
    assert find_holder(tmp_path / "run") is None
    with locked(tmp_path / "run", "output"):
        assert find_holder(tmp_path / "run") == os.getpid()


def test_a_lock_that_the_file_server_keeps_for_a_lost_machine_is_taken_over(tmp_path: Path) -> None:
    """A process of this machine that keeps the file open stands for the file server."""
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        lock_of_another_machine(folder)
        with pytest.raises(LorasmithError, match="number 4711 on gpu03"), locked(folder, "output"):
            pass
        lock_of_another_machine(folder, seconds_ago=STALE_AFTER + 10)
        with locked(folder, "output"):
            assert find_holder(folder) == os.getpid()
        holder.kill()


def test_a_process_whose_lock_was_taken_over_ends_and_writes_nothing_more(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = "import lorasmith.core.lock_holder as each; each.HEARTBEAT = 0.05\n" + HOLD
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        lock_of_another_machine(folder)
        _, errors = holder.communicate(timeout=120)
    assert holder.returncode == 1
    assert b"was taken over by another process (number 4711 on gpu03)" in errors


def test_a_lock_is_touched_as_long_as_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_holder, "HEARTBEAT", 0.02)
    with locked(tmp_path / "run", "output"):
        file = tmp_path / "run" / NAME
        os.utime(file, (1_000_000_000, 1_000_000_000))
        wait_until(lambda: file.stat().st_mtime >= 1_500_000_000)

"""One process at a time writes to a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import NAME, find_holder, locked

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

"""Starting the ranks of a run on one machine."""

from __future__ import annotations

import ast
import signal
import sys
from pathlib import Path

import pytest

from lorasmith.core.launch import find_launch, run_ranks


def run_script(folder: Path, text: str, count: int = 2) -> int:
    """A script of Python in several ranks."""
    script = folder / "rank.py"
    script.write_text(f"import os, pathlib, signal, sys, time\nrank = os.environ['RANK']\n{text}")
    return run_ranks([sys.executable, str(script), str(folder)], count)


def test_ranks_are_started_as_find_launch_reads_them(tmp_path: Path) -> None:
    names = "('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')"
    code = run_script(
        tmp_path, f"pathlib.Path(sys.argv[1], rank).write_text(repr({{n: os.environ[n] for n in {names}}}))"
    )
    assert code == 0
    launches = [find_launch(ast.literal_eval((tmp_path / str(i)).read_text())) for i in range(2)]
    assert [(launch.index, launch.count, launch.local) for launch in launches] == [(0, 2, 0), (1, 2, 1)]
    assert launches[0].address
    assert launches[0].port == launches[1].port > 0


def test_the_code_of_a_rank_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_script(tmp_path, "sys.exit(3 if rank == '1' else 0)") == 3
    # A rank that waits for the failed one for ever is ended.
    monkeypatch.setattr("lorasmith.core.launch.SECONDS_TO_END", 0.0)
    assert run_script(tmp_path, "time.sleep(60) if rank == '0' else sys.exit(1)") == 1


def test_a_signal_reaches_each_rank_once(tmp_path: Path) -> None:
    text = """
got = []
signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
pathlib.Path(sys.argv[1], f'ready{rank}').touch()
while rank == '0' and not pathlib.Path(sys.argv[1], 'ready1').exists():
    time.sleep(0.01)
if rank == '0':
    os.kill(os.getppid(), signal.SIGTERM)
while not got:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(0 if got == [signal.SIGTERM] else 1)
"""
    before = signal.getsignal(signal.SIGTERM)
    assert run_script(tmp_path, text) == 0
    assert signal.getsignal(signal.SIGTERM) == before

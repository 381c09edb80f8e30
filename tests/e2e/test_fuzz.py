"""The short form of `make fuzz`, and what its guard must notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.fuzz import FULL_SIZE
from tools.fuzzing.guard import Case, judge, place

ROOT = Path(__file__).parents[2]
SHARE = 50
"""One of so many inputs of the full size."""


@pytest.mark.slow
def test_damaged_inputs_are_answered_in_words(tmp_path: Path) -> None:
    """In a process of its own: the tool reads what its workers print from the standard output."""
    command = [sys.executable, "-m", "tools.fuzz", "--count", str(FULL_SIZE // SHARE), "--failures", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("report", "output", "fault"),
    [
        ([0, 0, []], "done", ""),
        ([1, 0, []], "error: x", ""),
        ([1, 0, []], "", "silence"),
        ([70, 0, []], "Traceback (most recent call last):", "traceback"),
        ([0, 0, []], "a \x1b[31m", "escape"),
        ([0, 1 << 40, []], "done", "memory"),
        ([0, 0, ["open /etc/x"]], "done", "stray"),
    ],
)
def test_the_guard_tells_faults_from_answers(report: list[object], output: str, fault: str) -> None:
    assert judge(Case(("inspect",)), report, output).fault == fault


def test_a_fault_is_named_by_the_last_line_of_ours() -> None:
    lines = ['File "/x/src/lorasmith/a.py", line 3, in f', 'File "/lib/torch/b.py", line 4, in g', "KeyError: 'x'"]
    assert place("\n".join(lines)) == "lorasmith/a.py:3:f: KeyError: 'x'"

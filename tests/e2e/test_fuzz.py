"""The short form of `make fuzz`, and what its guard must notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.fuzz import FULL_SIZE, SUBJECTS, Fuzzer
from tools.fuzzing.guard import Case, judge, place

SHARE = 50
"""One of so many inputs of the full size."""


@pytest.mark.slow
def test_damaged_inputs_are_answered_in_words(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path)
    tallies = {subject: fuzzer.fuzz(subject, count // SHARE) for subject, (_, count) in SUBJECTS.items()}
    assert {subject: dict(tally.kinds) for subject, tally in tallies.items() if tally.faults} == {}
    assert sum(tally.inputs for tally in tallies.values()) > FULL_SIZE / SHARE / 2
    assert all(tally.outcomes["error"] for tally in tallies.values())


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

"""The shares of the slow tests: together they are all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import slow_share
from tests.slow_share import (
    SECONDS_OF_OTHER_FILES,
    Share,
    mark_slow_cases,
    promised,
    seconds,
    share_of_files,
    slow_files,
    take_share,
)

ROOT = Path(__file__).parents[2]
COUNT = 5
"""As .ci/run has it."""
SHARES = [Share(number, COUNT) for number in range(1, COUNT + 1)]


def test_ci_runs_these_shares() -> None:
    assert f"% {COUNT} + 1))/{COUNT}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_file_is_in_exactly_one_share() -> None:
    found = [[path for path in slow_files() if share.has(path, "test_of_no_promise")] for share in SHARES]
    assert all(found)
    assert sorted(path for files in found for path in files) == list(slow_files())


def test_the_table_of_seconds_names_only_files_with_slow_tests() -> None:
    gone = sorted(seconds().keys() - set(slow_files()))
    assert not gone, f"tests/slow_seconds.toml names files without slow tests: {gone}; remove these lines"
    assert all(value >= 0 for value in seconds().values())


def test_shares_take_about_equally_long() -> None:
    totals: dict[int, float] = dict.fromkeys(range(1, COUNT + 1), 0.0)
    for path, number in share_of_files(COUNT).items():
        totals[number] += seconds().get(path, SECONDS_OF_OTHER_FILES)
    assert max(totals.values()) < 1.1 * min(totals.values())


def test_a_new_slow_file_moves_no_measured_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = share_of_files(COUNT)
    files = ("tests/a/test_new.py", *slow_files(), "tests/z/test_new.py")
    monkeypatch.setattr(slow_share, "slow_files", lambda: files)
    after = share_of_files.__wrapped__(COUNT)
    assert set(after) - set(before) == {"tests/a/test_new.py", "tests/z/test_new.py"}
    assert {path: after[path] for path in seconds()} == {path: before[path] for path in seconds()}


def test_promised_tests_are_in_every_share() -> None:
    assert ("tests/e2e/test_resume.py", "test_kill_and_resume_is_bit_for_bit") in promised()
    assert all(share.has(path, name) for share in SHARES for path, name in promised())


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/4", "-1/4", "1/0", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="like 2/4"):
        Share.read(text)


def test_only_slow_tests_of_other_shares_are_left_out(request: pytest.FixtureRequest) -> None:
    share = SHARES[0]
    own, other = (
        next(path for path in slow_files() if share.has(path, "test_a") is wanted) for wanted in (True, False)
    )
    items: list[Any] = [
        SimpleNamespace(path=ROOT / path, name="test_a[1]", originalname="test_a", get_closest_marker=marks.get)
        for path in (own, other)
        for marks in ({}, {"slow": True})
    ]
    kept = list(items)
    take_share(request.config, kept, share)
    assert kept == items[:3]


class Case:
    """A case of a parametrised test with the marker `slow_except`."""

    originalname = "test_of_families"

    def __init__(self, id: str, *patterns: str) -> None:
        self.callspec = SimpleNamespace(id=id)
        self.added: list[str] = []
        marker = SimpleNamespace(args=patterns)
        self.get_closest_marker = {"slow_except": marker}.get
        self.add_marker = self.added.append


def marked(ids: list[str], *patterns: str) -> dict[str, bool]:
    """Whether each id is slow after `slow_except(*patterns)`."""
    cases: list[Any] = [Case(id, *patterns) for id in ids]
    mark_slow_cases(cases)
    return {case.callspec.id: case.added == ["slow"] for case in cases}


def test_all_cases_are_slow_but_those_of_the_marker() -> None:
    assert marked(["sd1", "sd2", "sdxl"], "sd1") == {"sd1": False, "sd2": True, "sdxl": True}
    assert marked(["lora linear", "lora conv", "dora linear"], "* linear") == {
        "lora linear": False,
        "lora conv": True,
        "dora linear": False,
    }


def test_an_exception_that_is_no_case_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test_of_families: slow_except has \['sd3'\].*there are: sd1, sd2"):
        marked(["sd1", "sd2"], "sd1", "sd3")

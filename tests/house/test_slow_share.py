"""The shares of the slow tests: together they are all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import slow_share
from tests.slow_share import SECONDS_OF_OTHER_FILES, Share, promised, seconds, share_of_files, slow_files, take_share

ROOT = Path(__file__).parents[2]
SHARES = [Share.read(f"{number}/3") for number in (1, 2, 3)]


def test_every_file_is_in_exactly_one_share() -> None:
    found = [[path for path in slow_files() if share.has(path, "test_of_no_promise")] for share in SHARES]
    assert all(found)
    assert sorted(path for files in found for path in files) == list(slow_files())


def test_the_table_of_seconds_names_only_files_with_slow_tests() -> None:
    gone = sorted(seconds().keys() - set(slow_files()))
    assert not gone, f"tests/slow_seconds.toml names files without slow tests: {gone}; remove these lines"
    assert all(value >= 0 for value in seconds().values())


def test_shares_take_about_equally_long() -> None:
    totals: dict[int, float] = dict.fromkeys((1, 2, 3), 0.0)
    for path, number in share_of_files(3).items():
        totals[number] += seconds().get(path, SECONDS_OF_OTHER_FILES)
    assert max(totals.values()) < 1.1 * min(totals.values())


def test_a_new_slow_file_moves_no_measured_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = share_of_files(3)
    files = ("tests/a/test_new.py", *slow_files(), "tests/z/test_new.py")
    monkeypatch.setattr(slow_share, "slow_files", lambda: files)
    after = share_of_files.__wrapped__(3)
    assert set(after) - set(before) == {"tests/a/test_new.py", "tests/z/test_new.py"}
    assert {path: after[path] for path in seconds()} == {path: before[path] for path in seconds()}


def test_promised_tests_are_in_every_share() -> None:
    assert ("tests/e2e/test_resume.py", "test_kill_and_resume_is_bit_for_bit") in promised()
    assert all(share.has(path, name) for share in SHARES for path, name in promised())


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/3", "-1/3", "1/0", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="like 2/3"):
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

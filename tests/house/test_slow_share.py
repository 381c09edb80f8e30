"""The shares of the slow tests: together they are all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.slow_share import Share, promised, take_share

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
SHARES = [Share.read(f"{number}/3") for number in (1, 2, 3)]


def test_every_file_is_in_exactly_one_share() -> None:
    found = [[path for path in FILES if share.has(path, "test_of_no_promise")] for share in SHARES]
    assert all(found)
    assert sorted(path for files in found for path in files) == FILES


def test_promised_tests_are_in_every_share() -> None:
    assert ("tests/e2e/test_resume.py", "test_kill_and_resume_is_bit_for_bit") in promised()
    assert all(share.has(path, name) for share in SHARES for path, name in promised())


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/3", "-1/3", "1/0", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="like 2/3"):
        Share.read(text)


def test_only_slow_tests_of_other_shares_are_left_out(request: pytest.FixtureRequest) -> None:
    share = SHARES[0]
    own, other = (next(path for path in FILES if share.has(path, "test_a") is wanted) for wanted in (True, False))
    items: list[Any] = [
        SimpleNamespace(path=ROOT / path, name="test_a[1]", originalname="test_a", get_closest_marker=marks.get)
        for path in (own, other)
        for marks in ({}, {"slow": pytest.mark.slow})
    ]
    kept = list(items)
    take_share(request.config, kept, share)
    assert kept == items[:3]

"""Which tests are slow, and which of these belong to one share: `pytest -m slow --share 2/4` runs the second quarter of
the files with slow tests.

A test with the marker `slow` is slow. Of a parametrised test with the marker `slow_except`, every case is slow except
those whose ids the marker has: `@pytest.mark.slow_except("sd1")`. Patterns work too: `slow_except("* linear")`.

The shares take about equally long: tests/slow_seconds.toml has the seconds of each file. A file that the table names
stays in its share until the table changes, so a program that runs each of N shares in turn leaves none of its slow
tests out for longer than N turns. Slow tests that docs/guarantees.md names belong to every share.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS_OF_OTHER_FILES = 20.0
"""What a file with slow tests is taken to need if the table does not name it."""


@dataclass(frozen=True)
class Share:
    """The share `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Share:
        """Read `2/4`. Raises argparse.ArgumentTypeError for anything that is no share."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number from 1 on and a count, like 2/4")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, path: str, test: str) -> bool:
        """Whether it has a slow test: `path` is that of its file from the root, `test` is the name of the function."""
        return (path, test) in promised() or share_of_files(self.count).get(path, 1) == self.number


@cache
def promised() -> frozenset[tuple[str, str]]:
    """The file and the function of each test that docs/guarantees.md names."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page))


@cache
def seconds() -> dict[str, float]:
    """The measured seconds of the slow tests of each file in tests/slow_seconds.toml, without promised tests."""
    return tomllib.loads((ROOT / "tests" / "slow_seconds.toml").read_text(encoding="utf-8"))


@cache
def slow_files() -> tuple[str, ...]:
    """The files of tests that have the marker `slow` in their text, in alphabetical order."""
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.slow" in path.read_text("utf-8"))
    return tuple(path.relative_to(ROOT).as_posix() for path in files)


@cache
def share_of_files(count: int) -> dict[str, int]:
    """The number of the share, from 1 to `count`, of each file with slow tests.

    The longest file comes first, and each goes to the share with the fewest seconds so far. Files that the table does
    not name come last, so that a new file moves no other file that has been measured.
    """
    measured = seconds()
    totals = [0.0] * count
    shares: dict[str, int] = {}
    for path in sorted(slow_files(), key=lambda path: (path not in measured, -measured.get(path, 0.0), path)):
        lightest = totals.index(min(totals))
        totals[lightest] += measured.get(path, SECONDS_OF_OTHER_FILES)
        shares[path] = lightest + 1
    return shares


def mark_slow_cases(cases: list[pytest.Function]) -> None:
    """Add the marker `slow` to the cases of one parametrised test that its marker `slow_except` does not have.

    Raises ValueError if the marker has a pattern that fits no case.
    """
    marker = cases[0].get_closest_marker("slow_except") if cases else None
    if marker is None:
        return
    ids = {case: case.callspec.id for case in cases}
    if unused := [pattern for pattern in marker.args if not any(fnmatchcase(id, pattern) for id in ids.values())]:
        names = ", ".join(sorted(ids.values()))
        raise ValueError(
            f"{cases[0].originalname}: slow_except has {unused}, which no case is called; there are: {names}"
        )
    for case, id in ids.items():
        if not any(fnmatchcase(id, pattern) for pattern in marker.args):
            case.add_marker("slow")


def take_share(config: pytest.Config, items: list[pytest.Item], share: Share) -> None:
    """Leave out the slow tests of other shares."""
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        test = getattr(item, "originalname", None) or item.name
        is_kept = item.get_closest_marker("slow") is None or share.has(path, test)
        (kept if is_kept else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = kept

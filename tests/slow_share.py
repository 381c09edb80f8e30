"""Which slow tests belong to one share of them: `pytest -m slow --share 2/3` runs the second third of the files.

A file belongs to the share that its path gives, so that it stays there when other files come or go: a program that runs
each of N shares in turn leaves no slow test out for longer than N turns. Slow tests that docs/guarantees.md names
belong to every share.
"""

from __future__ import annotations

import argparse
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Share:
    """The share `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Share:
        """Read `2/3`. Raises argparse.ArgumentTypeError for anything that is no share."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number from 1 on and a count, like 2/3")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, path: str, test: str) -> bool:
        """Whether it has a slow test: `path` is that of its file from the root, `test` is the name of the function."""
        return (path, test) in promised() or zlib.crc32(path.encode()) % self.count == self.number - 1


@cache
def promised() -> frozenset[tuple[str, str]]:
    """The file and the function of each test that docs/guarantees.md names."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page))


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

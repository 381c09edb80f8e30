"""docs/guarantees.md names tests that exist, and README promises nothing beyond it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_tests_exist(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions_of(path), f"{path} has no {name}; name the test that holds this promise now"


def test_every_promise_has_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith(("| promise", "| ---"))]
    assert len(promises) > 20
    for line in promises:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", line), line


def test_the_readme_promises_only_what_stands_there() -> None:
    """Each point of its list begins with the heading of a section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## What you can rely on")[2].partition("\n## ")[0]
    points = re.findall(r"^\* \*\*(.+?)\*\*", section, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert len(points) >= 5
    assert set(points) <= set(headings)
    assert "docs/guarantees.md" in section

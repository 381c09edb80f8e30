"""YAML within bounds: references that multiply, contain themselves or repeat; values that have only the form of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.yaml_files import parse_yaml

PATH = Path("a.yml")


def doubling(levels: int, value: str = "[x, x, x]") -> str:
    """YAML in which each line refers ten times to the one before."""
    lines = [f"a0: &a0 {value}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a: 1\nb: [x, 2.5, true, null]", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("a: &a {x: 1}\nb: *a", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        (doubling(2, "1"), {"a0": 1, "a1": [1] * 10}),
        ("", None),
    ],
)
def test_ordinary_yaml_is_read(text: str, content: Any) -> None:
    assert parse_yaml(text, PATH) == content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (doubling(9), r"line 6: with its references .* more than 100,000 values"),
        (doubling(9, "{x: 1}").replace("[*", "{<<: [*").replace("]", "]}"), "more than 100,000 values"),
        ("a: &a [1, *a]", r"line 1: \*a is inside of itself"),
        ("a: &a {b: {c: *a}}", r"\*a is inside of itself"),
        ("a: " + "[" * 2000, "line 1: more than 60 tables or lists inside each other"),
        ("[" * 100_000 + "]" * 100_000, "more than 60 tables or lists"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", r'key "c" is in the table twice \(first in line 3\)'),
        ("a: 2024-13-45", "not valid YAML: a value cannot be read"),
        ("a: !!timestamp soon", "a value cannot be read"),
        ("a: !!int soon", "a value cannot be read"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("a: [1", "not valid YAML"),
        ("? [a]\n: 1\n? {b: 1}\n: 2", "not valid YAML"),
        ("a: \x01", "not valid YAML"),
        ("---\na: 1\n---\nb: 2", "single document"),
        ('a: "\\uD800"', "half of a UTF-16 pair|not valid YAML"),
        ("a: " + "9" * 5000, "a value cannot be read"),
        ("#" * 500_001, "500,001 characters are too many for a YAML file"),
    ],
)
def test_other_yaml_is_an_error_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(LorasmithError, match=rf"(?s)a\.yml: .*({reason})"):
        parse_yaml(text, PATH)

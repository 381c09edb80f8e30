"""Captions longer than what is read, the trigger in the part that is cut off, and escaped brackets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.data.remarks import Remark
from lorasmith.training.config import load_config
from lorasmith.training.setup.caption_reader import TokenReader


@pytest.fixture
def table(random_base: Callable[..., Path], pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": str(random_base("sd1")),
        "output": str(tmp_path / "run"),
        "trigger": ["mia"],
        "data": {"images": str(pictures(1)), "resolution": 64},
    }


def remarks(table: dict[str, Any], caption: str, *overrides: str) -> list[Remark]:
    (Path(table["data"]["images"]) / "00.txt").write_text(caption)
    return lorasmith.check(table, overrides=list(overrides)).images


def kinds(found: list[Remark]) -> list[tuple[str, str]]:
    return [(remark.kind, remark.severity) for remark in found]


LONG = ", ".join(["cat"] * 60)
"""119 tokens: 60 words and 59 commas."""


def test_a_caption_within_the_limit(table: dict[str, Any]) -> None:
    assert remarks(table, "mia, " + ", ".join(["cat"] * 36)) == []


def test_a_long_caption_is_named_with_its_length(table: dict[str, Any]) -> None:
    (found,) = remarks(table, f"mia, {LONG}")
    assert (found.kind, found.severity) == ("long_caption", "warning")
    assert "is 121 tokens long, only 75 are read" in found.text
    assert "text.max_tokens = 150" in found.text
    assert remarks(table, f"mia, {LONG}", "text.max_tokens=150") == []


def test_a_trigger_in_the_part_that_is_cut_off_is_serious(table: dict[str, Any]) -> None:
    (found,) = remarks(table, f"{LONG}, mia")
    assert (found.kind, found.severity) == ("trigger_cut_off", "serious")
    assert "mia" in found.text
    (found,) = remarks(table, ", ".join([LONG] * 4) + ", mia", "text.max_tokens=225")
    assert "max_tokens" not in found.text
    with pytest.raises(lorasmith.LorasmithError, match="cut off"):
        lorasmith.train(table, overrides=["text.max_tokens=225", "steps=1"])


def test_words_that_are_shuffled_are_cut_off_sometimes(table: dict[str, Any]) -> None:
    found = remarks(table, ", ".join([LONG] * 3) + ", mia", 'data.transforms=["shuffle"]')
    assert kinds(found) == [("trigger_cut_off", "warning")]
    assert "sometimes" in found[0].text


@pytest.mark.slow_except("\\\\(")
@pytest.mark.parametrize("brackets", [r"\(", r"\)", r"\[", r"\]"])
def test_escaped_brackets(table: dict[str, Any], brackets: str) -> None:
    (found,) = remarks(table, f"mia {brackets}x")
    assert (found.kind, found.severity) == ("escaped_bracket", "warning")
    assert "text.weighted" in found.text
    assert remarks(table, f"mia {brackets}x", "text.weighted=true") == []
    assert remarks(table, "mia (x) [y]") == []


@pytest.mark.slow
def test_emphasis_is_not_counted(table: dict[str, Any]) -> None:
    weighted = "mia, " + ", ".join(["(cat:1.2)"] * 36)
    assert remarks(table, weighted, "text.weighted=true") == []
    assert kinds(remarks(table, weighted)) == [("long_caption", "warning")]
    assert kinds(remarks(table, f"{LONG}, (mia:1.2)", "text.weighted=true")) == [("trigger_cut_off", "serious")]


def test_new_tokens_count_with_all_their_vectors(table: dict[str, Any]) -> None:
    concepts = {"concepts": [{"words": ["<m1>"], "vectors": 20}]}
    reader = TokenReader(load_config(table | concepts))
    assert reader.read("a <m1> cat")[0] == 22
    count, text = reader.read(" ".join(["<m1>"] * 3 + ["cat"] * 15 + ["dog", "<m1>"]))
    assert count == 96
    assert text.split() == ["<m1>"] * 3 + ["cat"] * 15

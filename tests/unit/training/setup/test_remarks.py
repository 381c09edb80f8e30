"""Remarks before a training: what is printed, what stops it, and who may go on all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Lines
from lorasmith.data.remarks import Remark
from lorasmith.training.config import load_config
from lorasmith.training.output.folder import reopen
from lorasmith.training.setup.remarks import LINES_SHOWN, report_remarks


@pytest.fixture
def table(random_base: Callable[..., Path], pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": str(random_base("sd1")),
        "output": str(tmp_path / "run"),
        "trigger": ["garp"],
        "steps": 1,
        "data": {"images": str(pictures(4)), "resolution": 64},
        "adapter": {"rank": 2},
    }


@pytest.fixture
def other_words(table: dict[str, Any]) -> dict[str, Any]:
    """Captions of which none has the trigger."""
    return table | {"trigger": ["mia"]}


def remark(severity: str, kind: str = "tiny", name: str = "1.png") -> Remark:
    return Remark(Path(name), kind, f"is {kind}", severity)  # type: ignore[arg-type]


def test_remarks_are_printed_in_short() -> None:
    lines: list[str] = []
    remarks = [remark("note", f"kind{i}") for i in range(9)] + [remark("warning", name=f"{i}.png") for i in range(5)]
    report_remarks(remarks, Lines(lines.append), accept=False)
    assert lines[0] == "14 remarks on the data; lorasmith check shows them:"
    assert lines[1] == "  0.png: is tiny (and 4 more like this)"
    assert len(lines) == 1 + LINES_SHOWN
    lines.clear()
    report_remarks([], Lines(lines.append), accept=False)
    assert lines == []


def test_serious_remarks_stop_unless_they_are_accepted() -> None:
    lines: list[str] = []
    remarks = [remark("note", "other"), remark("serious", "trigger")]
    with pytest.raises(LorasmithError, match=r"(?s)1\.png: is trigger.*--yes.*all 2 remarks"):
        report_remarks(remarks, Lines(lines.append), accept=False)
    assert lines == []
    report_remarks(remarks, Lines(lines.append), accept=True)
    assert lines[1] == "  1.png: is trigger"


def test_a_training_in_which_no_caption_has_the_trigger(other_words: dict[str, Any], tmp_path: Path) -> None:
    found = lorasmith.check(other_words)
    assert found.ok
    assert found.to_dict()["serious"] == 4
    assert {r.severity for r in found.serious} == {"serious"}
    with pytest.raises(LorasmithError, match="no trigger word"):
        lorasmith.train(other_words)
    assert not (tmp_path / "run").exists()
    assert lorasmith.train(other_words, accept_remarks=True).finished


def test_the_caption_of_images_without_one(table: dict[str, Any]) -> None:
    (Path(table["data"]["images"]) / "00.txt").unlink()
    lines: list[str] = []
    lorasmith.train(table, progress=Lines(lines.append))
    assert sum('1 of 4 images has no caption; "garp" is used' in line for line in lines) == 1
    found = lorasmith.check(table, output=Path(table["output"]) / "other", overrides=["trigger=[]"])
    assert [p.where for p in found.errors] == ["data.images"]
    assert found.data["images"] == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trigger": ["sks", "dog"]}, "sks dog"),
        ({"trigger": [], "concepts": [{"words": ["<a1>", "<a2>"]}]}, "<a1> <a2>"),
        ({"trigger": ["mia"], "concepts": [{"words": ["<a1>"]}]}, "mia"),
        ({"trigger": [], "concepts": [{"words": ["<a1>"]}, {"words": ["<b1>"]}]}, ""),
        ({"trigger": []}, ""),
    ],
)
def test_default_captions(table: dict[str, Any], changes: dict[str, Any], expected: str) -> None:
    assert load_config(table | changes).default_caption == expected


def test_a_run_of_an_older_version_goes_on_with_empty_captions(table: dict[str, Any]) -> None:
    (Path(table["data"]["images"]) / "00.txt").unlink()
    result = lorasmith.train(table)
    assert not reopen(result.folder).data.empty_captions
    config = result.folder / "config.toml"
    config.write_text(config.read_text().replace("empty_captions = false\n", ""))
    assert reopen(result.folder).data.empty_captions
    assert not reopen(result.folder, ["data.empty_captions=false"]).data.empty_captions

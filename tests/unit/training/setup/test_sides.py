"""Sides that a transformer cannot cut into tokens are found before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.sampling import run as sampling_run
from lorasmith.training.setup import build


@pytest.fixture
def table(transformer_folder: Path, pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": str(transformer_folder),
        "output": str(tmp_path / "run"),
        "steps": 1,
        "data": {"images": str(pictures(1)), "resolution": 64},
    }


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"data": {"resolution": 72, "buckets": {"enabled": False}}}, "data.buckets.step", "72 x 72"),
        ({"preview": {"prompts": ["a"], "width": 104}}, "preview.width", "104"),
    ],
)
def test_training_refuses_them_and_check_says_so(
    table: dict[str, Any], changes: dict[str, Any], key: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(build, "load", load)
    config = {**table, **changes, "data": table["data"] | changes.get("data", {})}
    problems = lorasmith.check(config).errors
    assert [problem.where for problem in problems] == [key]
    assert found in problems[0].found
    with pytest.raises(LorasmithError, match=r"multiples? of 16"):
        lorasmith.train(config)


def test_sampling_names_the_nearest_sides_before_it_loads(
    transformer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(sampling_run, "load", load)
    with pytest.raises(LorasmithError, match=r"width is 104; .* multiples of 16 pixels, such as 96 or 112"):
        lorasmith.sample(transformer_folder, "a dog", tmp_path / "out", width=104, height=64, steps=1)


def test_a_unet_takes_multiples_of_8(table: dict[str, Any]) -> None:
    config = {**table, "base": "tiny-sd"}
    config["data"] = table["data"] | {"resolution": 72, "buckets": {"enabled": False}}
    assert lorasmith.check(config).errors == []

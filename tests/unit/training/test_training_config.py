"""What a training config means where its keys depend on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config

OURS: dict[str, Any] = {"base": "tiny-sd", "output": "out"}


@pytest.mark.parametrize("held_out", [{"split": 0.1}, {"images": "other"}])
def test_held_out_images_are_measured(held_out: dict[str, Any]) -> None:
    config = load_config(OURS | {"data": {"images": "x", "validation": held_out}})
    assert config.validation is not None
    assert config.validation.every_epochs == 1


def test_an_override_that_holds_images_out_counts_too() -> None:
    config = load_config(OURS | {"data": {"images": "x"}}, ["data.validation.split=0.2"])
    assert config.validation is not None


@pytest.mark.parametrize("held_out", [{}, {"seed": 3}, {"split": 0.0}])
def test_without_held_out_images_nothing_is_measured(held_out: dict[str, Any]) -> None:
    assert load_config(OURS | {"data": {"images": "x", "validation": held_out}}).validation is None


def test_the_table_counts_where_it_is_given() -> None:
    data = {"images": "x", "validation": {"split": 0.1}}
    config = load_config(OURS | {"data": data, "validation": {"every_epochs": 5}})
    assert config.validation is not None
    assert config.validation.every_epochs == 5


def test_a_list_is_not_a_config(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    with pytest.raises(LorasmithError, match="holds a list"):
        load_config(path)

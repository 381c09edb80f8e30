"""What a training config means where its keys depend on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.adapters import AdapterConfig
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.registry import registered
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


@pytest.mark.parametrize(
    "kind", [name for name, kind in registered(AdapterConfig).items() if "rank" in kind.model_fields]
)
@pytest.mark.parametrize("rank", [-1, 0, 100_000])
def test_a_rank_that_no_layer_has(kind: str, rank: int) -> None:
    """LoKr alone takes any large rank for a full matrix, as LyCORIS does."""
    adapter = {"kind": kind, "rank": rank}
    if kind == "lokr" and rank > 0:
        assert load_config(OURS | {"data": {"images": "x"}, "adapter": adapter}).adapter.kind == "lokr"
        return
    with pytest.raises(ConfigError, match=r"adapter\.rank: found"):
        load_config(OURS | {"data": {"images": "x"}, "adapter": adapter})


def test_the_rank_of_some_layers_is_bounded_too() -> None:
    rule = {"layers": "*attn*", "rank": 100_000}
    with pytest.raises(ConfigError, match=r"adapter\.overrides\.0\.rank: found 100000"):
        load_config(OURS | {"data": {"images": "x"}, "adapter": {"overrides": [rule]}})


@pytest.mark.parametrize("resolution", [8200, 99_999_992, [64, 1_000_000]])
def test_a_resolution_that_no_memory_holds(resolution: Any) -> None:
    with pytest.raises(ConfigError, match="at most 8192"):
        load_config(OURS | {"data": {"images": "x", "resolution": resolution}})


@pytest.mark.parametrize("value", ["false", "1.5", "[1]"])
def test_plugins_that_are_not_names_are_a_problem_of_the_config(value: str) -> None:
    table = {"base": "tiny-sd", "output": "out", "steps": 1, "data": {"images": "x"}}
    with pytest.raises(ConfigError, match="plugins"):
        load_config(table, [f"plugins={value}"])


@pytest.mark.parametrize(("table", "key"), [({"folder": "x"}, "data.images"), ({"subsets": [{"path": "x"}]}, "images")])
def test_the_folder_of_images_under_another_name_is_recognised(table: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(OURS | {"data": table})
    advice = next(problem.remedy for problem in caught.value.problems if problem.found == "unknown key")
    assert advice.startswith("write data.")
    assert advice.endswith(key)


def test_a_missing_folder_is_reported_beside_a_wrong_key(tmp_path: Path) -> None:
    subsets = [{"images": str(tmp_path)}, {"images": str(tmp_path / "gone")}, {"images": "lorasmith:garp"}]
    with pytest.raises(ConfigError) as caught:
        load_config(OURS | {"stepz": 3, "data": {"subsets": subsets}})
    assert [problem.where for problem in caught.value.problems] == ["stepz", "data.subsets.1.images"]

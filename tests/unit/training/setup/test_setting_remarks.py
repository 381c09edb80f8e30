"""Settings that do not fit the base or the length of the run are said before training, and unusable ones refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.core.errors import ConfigError
from lorasmith.core.progress import Progress
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import build_run


def sized_base(base: Path, target: Path, sample_size: int) -> Path:
    """A copy of a diffusers folder that was made for pictures of 8 times `sample_size`."""
    shutil.copytree(base, target)
    config_file = target / "unet" / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"sample_size": sample_size}))
    return target


@pytest.fixture
def table(random_base: Callable[..., Path], pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    base = sized_base(random_base("sd1"), tmp_path / "base", sample_size=8)
    return {
        "base": str(base),
        "output": str(tmp_path / "run"),
        "trigger": ["garp"],
        "steps": 10,
        "data": {"images": str(pictures(2))},
        "adapter": {"rank": 4},
    }


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def said_in_training(table: dict[str, Any], *overrides: str) -> list[str]:
    progress = Lines()
    run = build_run(load_config(table, list(overrides)), progress=progress)
    run.events.close()
    run.adapters.detach()
    return [line for line in progress.lines if line.startswith("remark: ")]


def test_the_resolution_is_what_the_base_was_made_for(table: dict[str, Any], tmp_path: Path) -> None:
    assert lorasmith.check(table).data["buckets"][0]["size"] == [64, 64]
    run = build_run(load_config(table))
    run.events.close()
    assert run.dataset.config.resolution == 64
    # the folder of the run holds the value, so that a resumed run does not depend on the base's config
    assert load_config(tmp_path / "run" / "config.toml").data.resolution == 64


@pytest.mark.slow_except("72-*")
@pytest.mark.parametrize(("resolution", "factor"), [(32, "0.5"), (128, "2"), ([128, 32], None), (72, None)])
def test_another_resolution_gets_a_remark(resolution: Any, factor: str | None, table: dict[str, Any]) -> None:
    table["data"]["resolution"] = resolution
    remarks = [p for p in lorasmith.check(table).warnings if p.where == "data.resolution"]
    if factor is None and resolution == 72:
        assert remarks == []  # 72 is near 64
        return
    assert len(remarks) == (factor is not None)
    if factor is not None:
        assert f"{resolution} is {factor} times the size that the base was made for, 64" in remarks[0].found
        assert [line for line in said_in_training(table) if "times the size" in line]


def test_the_resolution_of_a_subset_gets_a_remark_of_its_own(table: dict[str, Any]) -> None:
    images = table["data"].pop("images")
    table["data"]["subsets"] = [{"images": images}, {"images": images, "resolution": 256}]
    where = [p.where for p in lorasmith.check(table).warnings]
    assert where == ["data.subsets.1.resolution"]


def test_settings_that_fit_get_no_remark(table: dict[str, Any]) -> None:
    assert lorasmith.check(table).warnings == []
    assert said_in_training(table) == []


@pytest.mark.slow_except("9-0", "10-1")
@pytest.mark.parametrize(("warmup", "remarks"), [(1000, 1), (10, 1), (9, 0), (0.5, 0), (0, 0)])
def test_a_warmup_as_long_as_the_run(warmup: float, remarks: int, table: dict[str, Any]) -> None:
    overrides = [f"lr_schedule.warmup={warmup}"]
    found = [p.found for p in lorasmith.check(table, overrides=overrides).warnings if p.where == "lr_schedule.warmup"]
    assert len(found) == remarks
    if warmup == 1000:
        assert "only reaches 0.01 times what is set" in found[0]
        assert len(said_in_training(table, *overrides)) == 1


@pytest.mark.slow_except("overrides0-*", "overrides4-*")
@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["optimizer.lr=1e4"], {"optimizer.lr"}),
        (["optimizer.text_lr=1"], {"optimizer.text_lr"}),
        (["optimizer.unet_lr=2"], {"optimizer.unet_lr"}),
        (["optimizer.lr=0.5"], set()),
        (["optimizer.kind=class", "optimizer.name=prodigyopt.Prodigy", "optimizer.lr=1"], set()),
    ],
)
def test_learning_rates_that_destroy_the_weights(overrides: list[str], keys: set[str], table: dict[str, Any]) -> None:
    assert {p.where for p in lorasmith.check(table, overrides=overrides).warnings} == keys


@pytest.mark.slow_except("layers5-*", "layers0-*")
@pytest.mark.parametrize(
    ("layers", "text_lr", "expected"),
    [
        (["unet.up_blocks.*", "te.*"], 1e-4, {}),
        (["attention", "unet.up_blocks.*"], 0.0, {}),
        (["unet.*", "!te.*"], 0.0, {}),
        (["unet.*", "text_encoder.*"], 0.0, {"adapter.layers": '"text_encoder.*" fits no layer of the base'}),
        (["unet.*", "!*.proj_inn"], 0.0, {"adapter.layers": '"!*.proj_inn" fits no layer of the base'}),
        (["unet.*", "te.*"], 0.0, {"adapter.layers": '"te.*" fits only layers of te, whose learning rate is 0'}),
        (["unet.up_blocks.*"], 1e-4, {"optimizer.text_lr": "chooses no layer of a text encoder"}),
    ],
)
def test_patterns_that_choose_nothing_beside_others_that_do(
    layers: list[str], text_lr: float, expected: dict[str, str], table: dict[str, Any]
) -> None:
    table["adapter"]["layers"] = layers
    table["optimizer"] = {"text_lr": text_lr}
    found = {p.where: p.found for p in lorasmith.check(table).warnings}
    assert list(found) == list(expected)
    assert all(part in found[key] for key, part in expected.items())


def test_a_rank_beyond_some_layers_gets_a_remark(table: dict[str, Any]) -> None:
    found = [p.found for p in lorasmith.check(table, overrides=["adapter.rank=40"]).warnings]
    assert len(found) == 1
    assert "at most the rank 32" in found[0]


@pytest.mark.slow_except("lora")
@pytest.mark.parametrize("kind", ["lora", "loha", "dora", "dylora"])
def test_a_rank_beyond_all_layers_is_refused(kind: str, table: dict[str, Any], tmp_path: Path) -> None:
    table["adapter"] = {"kind": kind, "rank": 8000}
    errors = lorasmith.check(table).errors
    assert [(p.where, p.allowed) for p in errors] == [("adapter.rank", "1 to 64")]
    with pytest.raises(ConfigError, match="more than any layer of the base can have"):
        build_run(load_config(table))
    assert not (tmp_path / "run").exists()


def test_a_large_rank_of_lokr_means_whole_factors(table: dict[str, Any]) -> None:
    table["adapter"] = {"kind": "lokr", "rank": 8000}
    assert lorasmith.check(table).errors == []


def test_a_base_without_a_size_in_its_config_has_that_of_its_kind(table: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "unsized"
    shutil.copytree(table["base"], folder)
    config_file = folder / "unet" / "config.json"
    for size, expected in (([16, 12], 128), (None, 512)):
        config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"sample_size": size}))
        assert lorasmith.check(table, overrides=[f"base={folder}"]).data["buckets"][0]["size"][0] == expected


def test_check_says_what_a_step_needs_and_what_is_free(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    result = lorasmith.check(table)
    assert result.memory["needed"] > 0.3
    assert result.memory["fits"]
    assert list(result.memory["by_level"]) == sorted(result.memory["by_level"], reverse=True)
    assert not [problem for problem in result.warnings if problem.where == "memory"]

    monkeypatch.setattr("lorasmith.training.setup.memory_check.free_memory", lambda device: 10**6)
    (problem,) = [problem for problem in lorasmith.check(table).warnings if problem.where == "memory"]
    assert "0.0 GiB are free" in problem.found

"""Files and folders that a config names and that do not exist: all of them are reported at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.core.errors import ConfigError
from lorasmith.training.config import load_config
from lorasmith.training.missing_files import missing_files

MISSING: dict[str, Any] = {
    "vae": "gone-vae.safetensors",
    "base_parts": ["gone-clip.safetensors", "gone-t5.safetensors"],
    "merge": ["gone-first.safetensors:0.5"],
    "start": "gone-start.safetensors",
    "concepts": [{"words": ["a", "b"], "init": ["dog", "gone-tokens.pt"]}],
    "preview": {"prompts": "gone-prompts.txt"},
    "data": {
        "images": "gone-images",
        "captions": "gone-captions",
        "masks": "gone-masks",
        "validation": {"images": "gone-held-out"},
    },
}
KEYS = {
    "vae", "base_parts", "merge", "start", "concepts.0.init.1", "preview.prompts",
    "data.images", "data.captions", "data.masks", "data.validation.images",
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config in which every file but the base is missing."""
    monkeypatch.chdir(tmp_path)
    return {"base": "tiny-sd", "output": "run", "steps": 1, **MISSING}


def where(error: ConfigError) -> list[str]:
    return [problem.where for problem in error.problems]


@pytest.mark.parametrize(
    ("mistake", "keys"),
    [
        ({"base": "tiny-sdd", "triger": ["garp"]}, {"base", "triger"}),
        ({"base": "tiny-sdd", "adapter": {"kind": "lorra"}}, {"base", "adapter"}),
        ({"base": "tiny-sdd", "optimizer": {"unet_lr": 0}, "concepts": []}, {"base", "optimizer"}),
        ({"base": "tiny-sdd"}, {"base"}),
        ({}, set[str]()),
    ],
    ids=["unknown key", "unknown kind", "contradiction", "wrong base", "other files"],
)
def test_training_names_all_missing_files_beside_other_mistakes(
    mistake: dict[str, Any], keys: set[str], table: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as raised:
        lorasmith.train(table | mistake)
    expected = KEYS | keys
    if mistake.get("concepts") == []:
        expected -= {"concepts.0.init.1"}
    assert set(where(raised.value)) == expected
    assert not Path("run").exists()


@pytest.mark.parametrize("base", ["tiny-sd", "tiny-sdd"])
def test_check_names_each_missing_file_once(base: str, table: dict[str, Any]) -> None:
    errors = lorasmith.check(table | {"base": base}).errors
    assert {problem.where for problem in errors} == KEYS | ({"base"} if base == "tiny-sdd" else set())
    named = [word for problem in errors for word in problem.found.replace('"', " ").split() if word.startswith("gone-")]
    assert sorted(set(named)) == sorted(named)


def test_a_missing_table_of_captions_is_no_question_of_permissions(
    table: dict[str, Any], pictures: Callable[..., Path]
) -> None:
    data = {"images": str(pictures(2)), "metadata": "gone.json"}
    errors = lorasmith.check({"base": "tiny-sd", "output": "run", "steps": 1, "data": data}).errors
    assert [(problem.where, problem.remedy) for problem in errors] == [("data.metadata", "correct the path")]


def test_a_misspelled_embedded_base_gets_a_suggestion(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='did you mean "tiny-sd"'):
        lorasmith.train(table | {"base": "tiny-sdd"})


def test_subsets_have_their_own_keys(table: dict[str, Any]) -> None:
    subsets = [{"images": "lorasmith:garp", "concept_masks": {"garp": "gone-1"}}, {"images": "gone-2"}]
    found = missing_files({"data": {"subsets": subsets}})
    assert {problem.where for problem in found} == {"data.subsets.0.concept_masks.garp", "data.subsets.1.images"}


def test_hub_ids_words_and_alpha_masks_are_no_missing_files(table: dict[str, Any]) -> None:
    given = {
        "base": "owner/name",
        "vae": "owner/vae",
        "preview": {"prompts": ["a dog"]},
        "concepts": [{"words": ["a"], "init": "dog"}],
        "data": {"images": "lorasmith:garp", "masks": "alpha"},
    }
    assert missing_files(given) == []


def test_the_masks_of_the_package_are_no_missing_folder(table: dict[str, Any]) -> None:
    assert missing_files({"data": {"images": "lorasmith:garp", "masks": "lorasmith:garp/masks"}}) == []


def test_values_of_wrong_types_do_not_stop_the_search(table: dict[str, Any]) -> None:
    given = {"base": 3, "merge": {"a": 1}, "concepts": "x", "preview": [], "data": {"subsets": [3, None]}, "vae": None}
    assert missing_files(given | {"start": "gone"})[0].where == "start"


@pytest.mark.parametrize("key", ["base_parts", "merge"])
def test_one_name_in_place_of_a_list_is_looked_for(key: str, table: dict[str, Any]) -> None:
    assert [problem.where for problem in missing_files({key: "gone.safetensors"})] == [key]


def test_a_wrong_strength_is_a_problem_of_merge(table: dict[str, Any], pictures: Callable[..., Path]) -> None:
    changes = {"base": "tiny-sd", "output": "run", "steps": 1, "data": {"images": str(pictures(2))}}
    errors = lorasmith.check(changes | {"merge": ["a.safetensors:much"]}).errors
    assert [problem.where for problem in errors] == ["merge"]


def test_a_valid_config_is_read_though_its_files_are_missing(table: dict[str, Any]) -> None:
    assert load_config(table).base == "tiny-sd"

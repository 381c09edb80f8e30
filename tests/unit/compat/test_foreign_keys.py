"""Keys and files of other trainers in a config of ours: the error names our key, or the command for the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorasmith.api import read_config
from lorasmith.compat.foreign_keys import foreign_keys
from lorasmith.compat.kohya.reading import read_file
from lorasmith.core.errors import ConfigError, Problem

OURS: dict[str, Any] = {"base": "tiny-sd", "output": "out", "data": {"images": str(Path(__file__).parent)}}

EXPECTED = {
    "learning_rate": "optimizer.lr",
    "text_encoder_lr": "optimizer.text_lr",
    "optimizer_type": "optimizer.kind",
    "max_grad_norm": "optimizer.clip",
    "lr_scheduler": "lr_schedule.kind",
    "lr_warmup_steps": "lr_schedule.warmup",
    "network_dim": "adapter.rank",
    "network_alpha": "adapter.alpha",
    "network_weights": "start",
    "network_module": "adapter.kind",
    "max_train_steps": "steps",
    "max_train_epochs": "epochs",
    "train_batch_size": "data.batch_size",
    "resolution": "data.resolution",
    "bucket_reso_steps": "data.buckets.step",
    "num_repeats": "data.repeats",
    "image_dir": "data.images",
    "gradient_accumulation_steps": "accumulation",
    "mixed_precision": "precision",
    "output_dir": "output",
    "output_name": "name",
    "min_snr_gamma": "objective",
    "instance_data_dir": "data",
    "rank": "adapter.rank",
}


def problems_of(table: dict[str, Any]) -> list[Problem]:
    with pytest.raises(ConfigError) as raised:
        read_config(OURS | table)
    return raised.value.problems


@pytest.mark.parametrize(("foreign", "ours"), EXPECTED.items())
def test_a_foreign_key_is_answered_with_ours(foreign: str, ours: str) -> None:
    (problem,) = problems_of({foreign: 1})
    assert problem.where == foreign
    assert problem.remedy.startswith(f"write {ours}")
    assert problem.allowed == ""


def test_the_keys_that_are_named_are_read() -> None:
    """The table leads to keys of ours that exist: none of them is unknown itself."""
    answers = [advice for advice in foreign_keys().values() if advice.startswith("write ")]
    named = [advice.removeprefix("write ").partition(" (")[0].split(", ") for advice in answers]
    firsts = {key.partition(".")[0] for keys in named for key in keys}
    found = problems_of({key: {"zzz": 1} for key in [*firsts, "zzz"]})
    unknown = {problem.where for problem in found if problem.found == "unknown key"}
    assert "zzz" in unknown
    assert not firsts & unknown


def test_an_option_without_effect_is_to_be_left_out() -> None:
    (problem,) = problems_of({"lowram": True})
    assert problem.remedy.startswith("leave out this option of sd-scripts")


def test_allowed_keys_are_listed_once_where_nothing_better_is_known() -> None:
    found = problems_of({"learning_rate": 1, "zzz": 1, "qqq": 2, "network_dim": 8})
    assert ["accumulation, adapter" in problem.allowed for problem in found] == [False, True, False, False]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"LoRA_type": "Standard", "pretrained_model_name_or_path": "x", "network_dim": 8}, "kohya_ss"),
        ({"pretrained_model_name_or_path": "x", "zzz": 3}, "lorasmith as train_network --config_file"),
        ({"general": {}, "datasets": [{"subsets": []}]}, "--dataset_config"),
    ],
)
def test_a_whole_file_of_another_trainer_is_recognised(tmp_path: Path, content: dict[str, Any], what: str) -> None:
    path = tmp_path / "mia.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=what) as raised:
        read_config(path)
    assert len(raised.value.problems) == 1


def test_settings_of_the_form_are_no_options_of_its_script(tmp_path: Path) -> None:
    path = tmp_path / "form.json"
    path.write_text(json.dumps({"LoRA_type": "Standard", "network_dim": 8}))
    with pytest.raises(ConfigError, match="kohya_ss"):
        read_file(path)


def test_a_utf16_file_of_sd_scripts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes('network_dim = 8\noutput_dir = "caf\u00e9"\n'.encode("utf-16"))
    assert read_file(path) == {"network_dim": 8, "output_dir": "caf\u00e9"}

"""sd-scripts' `train_db`, converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lorasmith.compat.kohya.options import OPTIONS as NETWORK
from lorasmith.compat.kohya.options.dreambooth import ABSENT, OPTIONS
from lorasmith.compat.script import Conversion
from lorasmith.core.errors import ConfigError
from lorasmith.training.config import load_config


def test_options_are_of_one_meaning() -> None:
    assert {option.name for option in NETWORK} >= ABSENT
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize(
    ("given", "unet", "text"),
    [
        ({}, 1e-5, 1e-5),
        ({"learning_rate_te": 5e-6}, 1e-5, 5e-6),
        ({"stop_text_encoder_training": -1}, 1e-5, 0.0),
    ],
)
def test_rates(given: dict[str, Any], unet: float, text: float, convert: Callable[..., Conversion]) -> None:
    config = load_config(convert("train_db", network_module=None, learning_rate=1e-5, **given).config)
    assert (config.optimizer.rate("unet"), config.optimizer.rate("te")) == (unet, text)
    assert config.adapter.on_norms


def test_the_text_encoder_stops(convert: Callable[..., Conversion]) -> None:
    found = convert("train_db", network_module=None, max_train_steps=200, stop_text_encoder_training=50)
    assert load_config(found.config).phases == {"text": (0.0, 0.25)}


def test_class_pictures_keep_their_weight(convert: Callable[..., Conversion]) -> None:
    found = convert("train_db", network_module=None, reg_data_dir="reg", prior_loss_weight=0.3).config
    weights = {subset["images"]: subset.get("loss_weight", 1.0) for subset in found["data"]["subsets"]}
    assert weights == {"img/1_b_c": 1.0, "img/2_a": 1.0, "reg/1_c": 0.3}


def test_the_model_is_what_the_original_writes(convert: Callable[..., Conversion]) -> None:
    as_base = convert("train_db", network_module=None)
    assert (as_base.config["export"]["model"], as_base.copy_targets) == ("layout", {})
    file = convert("train_db", network_module=None, save_model_as="safetensors")
    assert file.config["export"]["model"] == "single_file"
    assert [str(path) for path in file.copy_targets.values()] == ["out/x.safetensors"]
    same = convert("train_db", network_module=None, pretrained_model_name_or_path="models/base.safetensors")
    assert list(same.copy_targets) == ["x.model.safetensors"]
    with pytest.raises(ConfigError, match="base is one file"):
        convert(
            "train_db", network_module=None, pretrained_model_name_or_path="b.safetensors", save_model_as="diffusers"
        )


@pytest.mark.parametrize(("base", "kept"), [("tiny-sd", False), ("model.safetensors", True)])
def test_another_vae_and_the_model_that_is_written(base: str, kept: bool, convert: Callable[..., Conversion]) -> None:
    found = convert("train_db", network_module=None, pretrained_model_name_or_path=base, vae="other.safetensors")
    assert found.config["vae"] == "other.safetensors"
    assert any("contains the VAE of the base" in note for note in found.notes) == kept

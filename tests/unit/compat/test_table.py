"""The table of options is whole, current, and true of what the conversion does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from lorasmith.compat.kohya.options import OPTIONS
from lorasmith.compat.script import Conversion, all_scripts
from lorasmith.core.errors import ConfigError
from lorasmith.training.config import SpecField, load_config

ROOT = Path(__file__).parents[3]
INVENTORY = (Path(__file__).parent / "train_network_options.txt").read_text(encoding="utf-8").split()
"""The options of the original's parser."""
SAMPLES: dict[str, dict[str, Any]] = {
    "pretrained_model_name_or_path": {"pretrained_model_name_or_path": "other"},
    "base_weights": {"base_weights": ["a.safetensors"]},
    "base_weights_multiplier": {"base_weights": ["a.safetensors"], "base_weights_multiplier": [0.5]},
    "vae": {"vae": "other"},
    "v_parameterization": {"v_parameterization": True},
    "train_data_dir": {"train_data_dir": "reg"},
    "reg_data_dir": {"reg_data_dir": "reg"},
    "in_json": {"in_json": "meta.json"},
    "dataset_config": {"dataset_config": "data.toml"},
    "dataset_repeats": {"dataset_repeats": 3, "dataset_config": "data.toml"},
    "resolution": {"resolution": "128,64"},
    "skip_image_resolution": {"skip_image_resolution": "32,16"},
    "train_batch_size": {"train_batch_size": 4},
    "enable_bucket": {"enable_bucket": True},
    "min_bucket_reso": {"enable_bucket": True, "resolution": "512", "min_bucket_reso": 320},
    "max_bucket_reso": {"enable_bucket": True, "resolution": "512", "max_bucket_reso": 768},
    "bucket_reso_steps": {"enable_bucket": True, "resolution": "512", "bucket_reso_steps": 128},
    "bucket_no_upscale": {"enable_bucket": True, "bucket_no_upscale": True},
    "resize_interpolation": {"resize_interpolation": "cubic"},
    "color_aug": {"color_aug": True},
    "flip_aug": {"flip_aug": True},
    "face_crop_aug_range": {"face_crop_aug_range": "2.0,4.0"},
    "random_crop": {"random_crop": True},
    "alpha_mask": {"alpha_mask": True},
    "masked_loss": {"masked_loss": True, "conditioning_data_dir": "m"},
    "conditioning_data_dir": {"masked_loss": True, "conditioning_data_dir": "m"},
    "prior_loss_weight": {"reg_data_dir": "reg", "prior_loss_weight": 0.5},
    "caption_extension": {"caption_extension": "txt"},
    "caption_extention": {"caption_extention": "txt"},
    "shuffle_caption": {"shuffle_caption": True},
    "keep_tokens": {"shuffle_caption": True, "keep_tokens": 2},
    "keep_tokens_separator": {"shuffle_caption": True, "keep_tokens_separator": "|||"},
    "secondary_separator": {"secondary_separator": ";;;"},
    "enable_wildcard": {"enable_wildcard": True},
    "caption_separator": {"shuffle_caption": True, "caption_separator": ";"},
    "caption_prefix": {"caption_prefix": "a"},
    "caption_suffix": {"caption_suffix": "a"},
    "caption_dropout_rate": {"caption_dropout_rate": 0.1},
    "caption_dropout_every_n_epochs": {"caption_dropout_every_n_epochs": 4},
    "caption_tag_dropout_rate": {"caption_tag_dropout_rate": 0.1},
    "token_warmup_min": {"token_warmup_min": 2, "token_warmup_step": 0.5},
    "token_warmup_step": {"token_warmup_step": 100},
    "weighted_captions": {"weighted_captions": True},
    "max_token_length": {"max_token_length": 225},
    "clip_skip": {"clip_skip": 2},
    "network_module": {"network_module": "networks.oft"},
    "network_dim": {"network_dim": 8},
    "network_alpha": {"network_alpha": 2},
    "network_dropout": {"network_dropout": 0.1},
    "network_args": {"network_args": ["conv_dim=4"]},
    "network_train_unet_only": {"network_train_unet_only": True},
    "network_train_text_encoder_only": {"network_train_text_encoder_only": True},
    "scale_weight_norms": {"scale_weight_norms": 1},
    "network_weights": {"network_weights": "other.safetensors"},
    "optimizer_type": {"optimizer_type": "RAdam"},
    "optimizer_args": {"optimizer_args": ["weight_decay=0.1"]},
    "use_8bit_adam": {"use_8bit_adam": True},
    "use_lion_optimizer": {"use_lion_optimizer": True},
    "learning_rate": {"learning_rate": 1e-4},
    "unet_lr": {"unet_lr": 1e-4},
    "text_encoder_lr": {"text_encoder_lr": [1e-4]},
    "max_grad_norm": {"max_grad_norm": 0},
    "lr_scheduler": {"lr_scheduler": "cosine"},
    "lr_scheduler_type": {"lr_scheduler_type": "ConstantLR"},
    "lr_scheduler_args": {"lr_scheduler": "cosine", "lr_scheduler_args": ["end=0.1"]},
    "lr_warmup_steps": {"lr_scheduler": "cosine", "lr_warmup_steps": 10},
    "lr_scheduler_num_cycles": {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3},
    "lr_decay_steps": {"lr_scheduler": "warmup_stable_decay", "lr_decay_steps": 20},
    "lr_scheduler_timescale": {"lr_scheduler": "inverse_sqrt", "lr_scheduler_timescale": 50},
    "lr_scheduler_power": {"lr_scheduler": "polynomial", "lr_scheduler_power": 2},
    "lr_scheduler_min_lr_ratio": {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1},
    "noise_offset": {"noise_offset": 0.1},
    "noise_offset_random_strength": {"noise_offset": 0.1, "noise_offset_random_strength": True},
    "adaptive_noise_scale": {"noise_offset": 0.1, "adaptive_noise_scale": 0.1},
    "multires_noise_iterations": {"multires_noise_iterations": 6},
    "multires_noise_discount": {"multires_noise_iterations": 6, "multires_noise_discount": 0.1},
    "ip_noise_gamma": {"ip_noise_gamma": 0.1},
    "ip_noise_gamma_random_strength": {"ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True},
    "min_timestep": {"min_timestep": 10},
    "max_timestep": {"max_timestep": 900},
    "min_snr_gamma": {"min_snr_gamma": 5},
    "debiased_estimation_loss": {"debiased_estimation_loss": True},
    "scale_v_pred_loss_like_noise_pred": {"v_parameterization": True, "scale_v_pred_loss_like_noise_pred": True},
    "v_pred_like_loss": {"v_pred_like_loss": 0.1},
    "zero_terminal_snr": {"zero_terminal_snr": True},
    "loss_type": {"loss_type": "l1"},
    "huber_schedule": {"loss_type": "huber", "huber_schedule": "constant"},
    "huber_c": {"loss_type": "huber", "huber_c": 0.2},
    "huber_scale": {"loss_type": "huber", "huber_scale": 2},
    "max_train_steps": {"max_train_steps": 5},
    "max_train_epochs": {"max_train_epochs": 5},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "mixed_precision": {"mixed_precision": "bf16"},
    "max_data_loader_n_workers": {"max_data_loader_n_workers": 2},
    "seed": {"seed": 7},
    "output_dir": {"output_dir": "other"},
    "output_name": {"output_name": "other"},
    "save_precision": {"save_precision": "fp16"},
    "save_every_n_epochs": {"save_every_n_epochs": 1},
    "save_every_n_steps": {"save_every_n_steps": 1},
    "save_n_epoch_ratio": {"max_train_epochs": 10, "save_n_epoch_ratio": 5},
    "save_last_n_epochs": {"save_every_n_epochs": 1, "save_last_n_epochs": 2},
    "save_last_n_epochs_state": {"save_every_n_epochs": 1, "save_state": True, "save_last_n_epochs_state": 2},
    "save_last_n_steps": {"save_every_n_steps": 1, "save_last_n_steps": 2},
    "save_last_n_steps_state": {"save_every_n_steps": 1, "save_state": True, "save_last_n_steps_state": 2},
    "save_state": {"save_every_n_steps": 1, "save_state": True},
    "save_model_as": {"save_model_as": "pt"},
    "save_state_on_train_end": {"save_state_on_train_end": True},
    "initial_epoch": {"initial_epoch": 2},
    "initial_step": {"initial_step": 3},
    "huggingface_repo_id": {"huggingface_repo_id": "a/b"},
    "huggingface_repo_type": {"huggingface_repo_id": "a/b", "huggingface_repo_type": "dataset"},
    "huggingface_path_in_repo": {"huggingface_repo_id": "a/b", "huggingface_path_in_repo": "loras"},
    "huggingface_repo_visibility": {"huggingface_repo_id": "a/b", "huggingface_repo_visibility": "public"},
    "save_state_to_huggingface": {"huggingface_repo_id": "a/b", "save_state_to_huggingface": True},
    "async_upload": {"huggingface_repo_id": "a/b", "async_upload": True},
    "log_with": {"log_with": "wandb"},
    "log_tracker_name": {"log_with": "all", "log_tracker_name": "faces"},
    "log_tracker_config": {"log_with": "wandb", "log_tracker_config": "tracker.toml"},
    "wandb_run_name": {"log_with": "wandb", "wandb_run_name": "a"},
    "log_config": {"log_with": "wandb", "log_config": True},
    "sample_prompts": {"sample_prompts": "p.txt", "sample_every_n_steps": 1},
    "sample_sampler": {"sample_prompts": "p.txt", "sample_every_n_steps": 1, "sample_sampler": "euler_a"},
    "sample_every_n_epochs": {"sample_prompts": "p.txt", "sample_every_n_epochs": 1},
    "sample_every_n_steps": {"sample_prompts": "p.txt", "sample_every_n_steps": 1},
    "sample_at_first": {"sample_prompts": "p.txt", "sample_at_first": True},
    "no_metadata": {"no_metadata": True},
    "training_comment": {"training_comment": "a"},
    **{f"metadata_{name}": {f"metadata_{name}": "x"} for name in get_args(SpecField)},
    "metadata_trigger_phrase": {"metadata_trigger_phrase": "a"},
    "validation_split": {"validation_split": 0.5},
    "validation_seed": {"validation_split": 0.5, "validation_seed": 5},
    "validate_every_n_steps": {"validation_split": 0.5, "validate_every_n_steps": 1},
    "validate_every_n_epochs": {"validation_split": 0.5, "validate_every_n_epochs": 2},
}
"""Values with which an option counts: it, and what it needs."""
WORD = {"token_string": "qux", "init_word": "face"}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl_train_network": {},
    "train_db": {
        "save_model_as": {"save_model_as": "safetensors"},
        "learning_rate_te": {"learning_rate_te": 1e-3},
        "stop_text_encoder_training": {"stop_text_encoder_training": 100},
    },
    "train_textual_inversion": {
        "token_string": WORD,
        "init_word": WORD,
        "num_vectors_per_token": {**WORD, "num_vectors_per_token": 3},
        "weights": {**WORD, "weights": "earlier.safetensors"},
        "use_object_template": {**WORD, "use_object_template": True},
        "use_style_template": {**WORD, "use_style_template": True},
    },
}
"""The same of options that other scripts have, or have otherwise."""
ELSEWHERE = {
    "config_file": "test_train_network",
    "output_config": "test_train_network",
    "resume": "tests/e2e/test_kohya.py",
    "resume_from_huggingface": "test_sending",
    "huggingface_token": "test_sending",
    "wandb_api_key": "test_sending",
    "skip_until_initial_step": "always",
    "debug_dataset": "tests/e2e/test_kohya_files.py",
    "full_fp16": "test_train_network",
    "full_bf16": "test_train_network",
    "cache_latents": "always",
    "cache_latents_to_disk": "always",
    "train_textual_inversion save_model_as": "tests/e2e/test_kohya_words.py",
}
"""Options whose effect is shown by another test, or that ask for what is always so."""


def place(found: Conversion, key: str) -> Any:
    """What stands at a dotted key of the whole config, defaults included; of a list, in all of its items, or in those
    of the kind that the key names. Where there is no such key, None."""
    node: Any = load_config(found.config).model_dump(mode="json")
    for part in key.split("."):
        if isinstance(node, list):
            kind = [item for item in node if item.get("kind") == part]
            node = kind or [item[part] for item in node if part in item]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    return node


def test_the_inventory_is_covered() -> None:
    assert len(INVENTORY) == 195
    assert sorted(option.name for option in OPTIONS) == sorted(INVENTORY)


def test_the_page_is_current() -> None:
    command = [sys.executable, "-m", "tools.foreign", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_option_that_counts_has_a_sample() -> None:
    counting = {option.name for option in OPTIONS if option.state in ("same", "improved")}
    assert counting == SAMPLES.keys() | {name for name in ELSEWHERE if " " not in name}


@pytest.fixture
def files(train_dir: Path) -> None:
    (train_dir / "meta.json").write_text("{}")
    (train_dir / "tracker.toml").write_text('[wandb]\nentity = "me"\n')
    (train_dir / "data.toml").write_text('[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "img/2_a"\n')


@pytest.mark.parametrize("script", OWN)
def test_every_option_of_other_scripts_that_counts_has_a_sample(script: str) -> None:
    counting = {o.name for o in all_scripts()[script].options if o.state in ("same", "improved") and o not in OPTIONS}
    elsewhere = {name.split()[1] for name in ELSEWHERE if name.startswith(f"{script} ")}
    assert counting == OWN[script].keys() | elsewhere


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("script", "name"),
    [*(("train_network", name) for name in SAMPLES), *((script, name) for script in OWN for name in OWN[script])],
)
def test_an_option_changes_what_the_table_says(script: str, name: str, convert: Callable[..., Conversion]) -> None:
    option = next(o for o in all_scripts()[script].options if o.name == name)
    sample = SAMPLES[name] if script == "train_network" else OWN[script][name]
    own = {key: value for key, value in sample.items() if key != name}
    with_it = convert(script, **sample)
    try:
        without = convert(script, **({"token_string": "x"} if name == "token_string" else {}) | own)
    except ConfigError:
        pytest.fail(f"{name}: what it needs does not stand by itself")
    assert sample[name] != option.default
    for target in option.to.split(", "):
        assert place(with_it, target) is not None, target
        assert place(with_it, target) != place(without, target), target


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"cache_latents": True}, "data.cache_latents", True),
        ({"cache_latents_to_disk": True}, "data.cache_latents", True),
        ({"log_with": "tensorboard"}, "log.tensorboard", True),
        ({"mixed_precision": "fp16", "full_fp16": True}, "precision", "fp16"),
        ({"mixed_precision": "bf16", "full_bf16": True}, "precision", "bf16"),
        ({"save_model_as": "safetensors"}, "export.format", {"kind": "kohya"}),
    ],
)
def test_what_is_asked_for_is_so_already(
    given: dict[str, Any], key: str, value: Any, convert: Callable[..., Conversion]
) -> None:
    assert place(convert(**given), key) == value
    assert convert(**given).config == convert(**{k: v for k, v in given.items() if k == "mixed_precision"}).config


@pytest.mark.parametrize("name", [o.name for o in OPTIONS if o.state == "no_effect"])
def test_an_option_without_effect_changes_nothing_and_is_mentioned(
    name: str, convert: Callable[..., Conversion]
) -> None:
    option = next(o for o in OPTIONS if o.name == name)
    value: Any = {"flag": True, "int": 77, "float": 0.7, "text": option.choices[0] if option.choices else "abc"}[
        option.type
    ]
    found = convert(**{name: value})
    assert found.config == convert().config
    assert any(note.startswith(f"{name} has no effect here") for note in found.notes)


@pytest.mark.parametrize("name", [o.name for o in OPTIONS if o.state == "refused"])
def test_a_refused_option_is_an_error_when_it_is_used(name: str, convert: Callable[..., Conversion]) -> None:
    option = next(o for o in OPTIONS if o.name == name)
    value: Any = {"flag": True, "int": 3, "float": 0.7, "text": "abc", "texts": ["a=1"], "floats": [1.0]}[option.type]
    with pytest.raises(ConfigError) as error:
        convert(**{name: value})
    assert [p.where for p in error.value.problems] == [name]
    for unset in ("", option.default, *([False] if option.type == "flag" else [])):
        convert(**{name: unset})

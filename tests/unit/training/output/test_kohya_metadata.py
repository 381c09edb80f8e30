"""kohya's `ss_*` metadata of the files of a run: all fields, with the values that kohya's scripts write."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from lorasmith.compat.script import find_script
from lorasmith.training.config import load_config
from lorasmith.training.output.kohya_metadata import image_fields
from lorasmith.training.session import train

OF_THE_ORIGINAL = """
session_id training_started_at training_finished_at output_name learning_rate text_encoder_lr unet_lr num_train_images
num_validation_images num_reg_images num_batches_per_epoch num_epochs gradient_checkpointing gradient_accumulation_steps
max_train_steps lr_warmup_steps lr_scheduler network_module network_dim network_alpha network_dropout network_args
mixed_precision full_fp16 v2 base_model_version clip_skip max_token_length cache_latents seed lowram noise_offset
noise_offset_random_strength adaptive_noise_scale multires_noise_iterations multires_noise_discount ip_noise_gamma
ip_noise_gamma_random_strength zero_terminal_snr training_comment optimizer max_grad_norm caption_dropout_rate
caption_dropout_every_n_epochs caption_tag_dropout_rate face_crop_aug_range prior_loss_weight min_snr_gamma
scale_weight_norms debiased_estimation loss_type huber_schedule huber_scale huber_c fp8_base fp8_base_unet
validation_seed validation_split max_validation_steps validate_every_n_epochs validate_every_n_steps
resize_interpolation sd_model_name sd_model_hash new_sd_model_hash steps epoch batch_size_per_device total_batch_size
resolution color_aug flip_aug random_crop shuffle_caption enable_bucket bucket_no_upscale min_bucket_reso
max_bucket_reso keep_tokens dataset_dirs reg_dataset_dirs tag_frequency bucket_info
"""
"""Every field that kohya's train_network writes without a dataset config, except the revision of its own repository."""


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a config of sd-scripts: 3 images twice and 1 once, 2 regularisation images, batches of 2, accumulated 2."""
    root = tmp_path_factory.mktemp("kohya")
    for folder, count in (("img/2_a", 3), ("img/1_b", 1), ("reg/1_c", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (96, 64), (i * 20, count, 0)).save(root / folder / f"{i}.png")
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": "tiny-sd",
        "train_data_dir": str(root / "img"),
        "reg_data_dir": str(root / "reg"),
        "prior_loss_weight": 0.5,
        "resolution": "64",
        "enable_bucket": True,
        "min_bucket_reso": 16,
        "max_bucket_reso": 128,
        "bucket_reso_steps": 16,
        "network_module": "networks.lora",
        "network_dim": 2,
        "network_dropout": 0.1,
        "scale_weight_norms": 1.0,
        "output_dir": str(root / "out"),
        "output_name": "a",
        "max_train_steps": 5,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "optimizer_type": "AdamW",
        "optimizer_args": ["weight_decay=0.1"],
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 0.2,
        "noise_offset": 0.05,
        "min_snr_gamma": 5,
        "loss_type": "huber",
        "huber_c": 0.2,
        "shuffle_caption": True,
        "keep_tokens": 1,
        "flip_aug": True,
        "caption_dropout_rate": 0.1,
        "seed": 3,
    }
    script = find_script("train_network")
    file = train(load_config(script.convert(script.read(values, [])).config)).file
    assert file is not None
    with safe_open(file, "pt") as opened:
        return {key.removeprefix("ss_"): value for key, value in opened.metadata().items() if key.startswith("ss_")}


@pytest.mark.slow
def test_every_field_is_there(metadata: dict[str, str]) -> None:
    assert set(OF_THE_ORIGINAL.split()) - metadata.keys() == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # 3 images twice and one once; as many of the others
        ("num_train_images", "7"),
        ("num_reg_images", "7"),
        ("num_validation_images", "0"),
        # 14 views in batches of 2 are 7 batches, and 4 steps of two batches
        ("num_batches_per_epoch", "7"),
        ("num_epochs", "2"),
        ("steps", "5"),
        ("epoch", "2"),
        ("total_batch_size", "4"),
        ("lr_warmup_steps", "1"),
        ("clip_skip", "1"),
        ("network_dropout", "0.1"),
        ("scale_weight_norms", "1.0"),
        ("noise_offset", "0.05"),
        ("min_snr_gamma", "5.0"),
        ("debiased_estimation", "False"),
        ("loss_type", "huber"),
        ("huber_c", "0.2"),
        ("huber_schedule", "snr"),
        ("shuffle_caption", "True"),
        ("keep_tokens", "1"),
        ("flip_aug", "True"),
        ("color_aug", "False"),
        ("caption_dropout_rate", "0.1"),
        ("prior_loss_weight", "0.5"),
        ("enable_bucket", "True"),
        ("min_bucket_reso", "16"),
        ("multires_noise_iterations", "None"),
        ("validation_split", "0.0"),
    ],
)
def test_a_value(name: str, value: str, metadata: dict[str, str]) -> None:
    assert metadata[name] == value


def test_structured_values(metadata: dict[str, str]) -> None:
    assert metadata["optimizer"] == "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.999),eps=1e-08)"
    folders = json.loads(metadata["dataset_dirs"])
    assert folders == {"2_a": {"n_repeats": 2, "img_count": 3}, "1_b": {"n_repeats": 1, "img_count": 1}}
    assert json.loads(metadata["reg_dataset_dirs"])["1_c"]["img_count"] == 2
    info = json.loads(metadata["bucket_info"])
    assert sum(bucket["count"] for bucket in info["buckets"].values()) == 14
    assert info["buckets"]["0"]["resolution"] == [80, 48]
    assert info["mean_img_ar_error"] == pytest.approx(80 / 48 - 96 / 64)
    assert float(metadata["training_finished_at"]) >= float(metadata["training_started_at"])
    assert int(metadata["session_id"]) > 0


@pytest.mark.parametrize(("ranks", "per_device"), [(1, 6), (2, 3), (4, 2)])
def test_the_batch_of_a_device_is_its_share(ranks: int, per_device: int) -> None:
    """kohya's batch is per process, ours is of all; the larger share where they differ."""
    data = {"images": "unused", "batch_size": 6, "resolution": 64}
    config = load_config({"base": "tiny-sd", "output": "unused", "trigger": ["garp"], "accumulation": 2, "data": data})
    dataset = SimpleNamespace(records=[], validation=[])
    run: Any = SimpleNamespace(config=config, dataset=dataset, ranks=SimpleNamespace(count=ranks))
    fields = image_fields(run)
    assert (fields["batch_size_per_device"], fields["total_batch_size"]) == (per_device, 12)


def test_public_files_have_no_folders(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 1,
        "trigger": ["garp"],
        "data": {"images": str(tmp_path), "resolution": 64},
        "adapter": {"rank": 1, "layers": ["*.attn1.to_k"]},
    }
    file = train(load_config(table)).file
    assert file is not None
    with safe_open(file, "pt") as opened:
        keys = opened.metadata().keys()
    assert "ss_bucket_info" in keys
    assert not keys & {"ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_tag_frequency"}

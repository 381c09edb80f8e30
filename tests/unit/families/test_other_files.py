"""What is given as a base and is something else is called what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.core.file_contents import not_a_base
from lorasmith.families.resolve import find


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "a Flux model"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a Flux model"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3 or 3.5 model"),
        ("transformer_blocks.0.attn.add_k_proj.weight", "a Stable Diffusion 3 or 3.5 model"),
        ("clip_txt_mapper.weight", "a Stable Cascade model"),
        ("input_blocks.0.0.weight", "a UNet"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet"),
        ("decoder.conv_in.weight", r"a VAE.*vae = 'FILE'"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA.*--lora"),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", "a LoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoRA"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "a LoRA for Flux"),
        ("emb_params", "an embedding.*--embedding"),
    ],
)
def test_other_files_are_called_what_they_are(key: str, says: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(4, 4)}, tmp_path / "file.safetensors")
    with pytest.raises(LorasmithError, match=rf"file\.safetensors: is {says}"):
        find(tmp_path / "file.safetensors")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_bases_are_not_taken_for_others(kind: str, random_base: Callable[..., Path]) -> None:
    assert not_a_base(load_file(random_base(kind).with_name(f"{kind}.safetensors"))) is None


@pytest.mark.parametrize(
    ("name", "class_name"), [("model_index.json", "FluxPipeline"), ("config.json", "AutoencoderKL")]
)
def test_folders_are_called_what_they_are(name: str, class_name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps({"_class_name": class_name}))
    with pytest.raises(LorasmithError, match=f"not a diffusers model folder.*it is a {class_name}"):
        find(tmp_path)


def test_a_folder_with_a_single_file_names_it(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LorasmithError, match=r"name it: .*model\.safetensors"):
        find(tmp_path)

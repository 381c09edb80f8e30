"""Odd but honest LoRA files through the commands that rewrite them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith import api
from lorasmith.core.errors import LorasmithError

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
DOTTED = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


def lora(rank: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, 128, generator=generator) * 0.1
    up = torch.randn(128, rank, generator=generator) * 0.1
    return {f"{Q}.lora_down.weight": down, f"{Q}.lora_up.weight": up, f"{Q}.alpha": torch.tensor(2.0)}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_files_are_converted_and_resized(dtype: torch.dtype, tmp_path: Path) -> None:
    """In fp16, which holds every number of fp8."""
    tensors = {key: tensor.to(dtype) if tensor.dim() else tensor for key, tensor in lora().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    report = api.convert(tmp_path / "x.safetensors", "kohya", base="tiny-sd")
    assert any("fp8" in note for note in report.notes)
    written = load_file(report.file)
    for key, tensor in tensors.items():
        assert written[key].dtype == (torch.float16 if tensor.dim() else torch.float32)
        assert torch.equal(written[key].float(), tensor.float())
    report = api.resize(tmp_path / "x.safetensors", rank=4, base="tiny-sd")
    assert report.error is not None
    assert report.error < 1e-3


def test_notes_of_reading_are_in_the_report_of_every_command(tmp_path: Path) -> None:
    without_alpha = {
        f"{DOTTED}.lora_A.style.weight": lora()[f"{Q}.lora_down.weight"],
        f"{DOTTED}.lora_B.style.weight": lora()[f"{Q}.lora_up.weight"],
    }
    path = tmp_path / "x.safetensors"
    save_file(without_alpha, path)
    out = tmp_path / "out.safetensors"
    reports = [
        api.convert(path, "kohya", base="tiny-sd"),
        api.resize(path, rank=2, base="tiny-sd"),
        api.combine([path, f"{path}:0.5"], out, base="tiny-sd"),
        api.merge("tiny-sd", [path], tmp_path / "merged"),
    ]
    for report in reports:
        assert any("alpha = rank is assumed" in note for note in report.notes)


def test_factors_with_a_huge_product_are_refused_by_their_shapes(tmp_path: Path) -> None:
    """As a LoRA of rank r^2 they would not fit into memory; nothing of it is computed."""
    a, b = torch.ones(1 << 16, 32), torch.ones(32, 1 << 16)
    tensors = {f"{Q}.hada_w1_a": a, f"{Q}.hada_w1_b": b, f"{Q}.hada_w2_a": a.clone(), f"{Q}.hada_w2_b": b.clone()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(LorasmithError, match="does not fit"):
        api.convert(tmp_path / "x.safetensors", "portable", base="tiny-sd")


def test_two_names_of_one_layer_are_refused(tmp_path: Path) -> None:
    """As in a file that mixes the names of diffusers and of the original layout."""
    twin = {key.replace("mid_block_attentions_0", "middle_block_1"): tensor.clone() for key, tensor in lora().items()}
    save_file(lora() | twin, tmp_path / "x.safetensors")
    with pytest.raises(LorasmithError, match="same layer"):
        api.convert(tmp_path / "x.safetensors", "kohya", base="tiny-sd")

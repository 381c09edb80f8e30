"""LoRAs of two concepts of small random Flux and SD3 models as one LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import read
from lorasmith.files.model import ModelLayers
from lorasmith.fusion import files as fusion_files
from tests.transformer_bases import WRITERS, original_names

MODULES = {"flux": "double_blocks_0_img_attn_qkv", "sd3": "joint_blocks_0_x_block_attn_qkv"}
VERSIONS = {"flux": "flux1", "sd3": "sd3"}


@pytest.fixture(scope="module", params=WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[kind](tmp_path_factory.mktemp(kind))


@pytest.fixture
def files(kind: str, tmp_path: Path) -> list[str]:
    """Two LoRAs of q, k and v of a block, and of a layer of CLIP, each with its name in prompts."""
    named: list[str] = []
    for seed, name in enumerate(("garp", "zork")):
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        modules = {f"lora_unet_{MODULES[kind]}": 192, "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": 64}
        for module, rows in modules.items():
            tensors[f"{module}.lora_down.weight"] = torch.randn(2, 64, generator=generator) * 0.2
            tensors[f"{module}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.2
            tensors[f"{module}.alpha"] = torch.tensor(2.0)
        save_file(tensors, tmp_path / f"{name}.safetensors", {"ss_base_model_version": VERSIONS[kind]})
        named.append(f"{tmp_path / name}.safetensors={name}")
    return named


def test_a_fused_file_misses_less_of_each_concept_than_a_sum(
    kind: str, folder: Path, files: list[str], tmp_path: Path
) -> None:
    report = lorasmith.fuse(files, folder, tmp_path / "fused.safetensors", steps=2, size=64)
    for stage in ("text", "picture"):
        missed = {method: sum(report.missed[method][stage]) for method in ("gradient", "weights", "sum")}
        assert missed["gradient"] < min(missed["weights"], missed["sum"]), stage
    model = ModelLayers.from_base(folder)
    # an attention of a text encoder gets zeros for its other projections, which A1111 needs
    assert read(report.file, model).layers.keys() >= read(Path(files[0].partition("=")[0]), model).layers.keys()


def test_a_base_without_text_encoders_is_refused_before_it_is_loaded(
    kind: str, folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alone").mkdir()
    base = tmp_path / "alone" / "base.safetensors"
    save_file(original_names(folder, kind), base)

    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(fusion_files, "load", load)
    with pytest.raises(LorasmithError, match="fusing draws pictures with the base, which needs all of its parts"):
        lorasmith.fuse(files, base, tmp_path / "fused.safetensors", steps=2, size=64)

"""LoRAs of two concepts of small random Flux and SD3 models as one LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import read
from lorasmith.files.model import ModelLayers
from lorasmith.formats.read_tensors import read_tensors
from lorasmith.fusion import files as fusion_files
from tests.transformer_bases import original_names, write_lora_of_block


@pytest.fixture
def files(transformer_kind: str, tmp_path: Path) -> list[str]:
    """Two LoRAs of q, k and v of a block, and of a layer of CLIP, each with its name in prompts."""
    named: list[str] = []
    for seed, name in enumerate(("garp", "zork")):
        write_lora_of_block(tmp_path / f"{name}.safetensors", transformer_kind, text=True, seed=seed)
        named.append(f"{tmp_path / name}.safetensors={name}")
    return named


@pytest.mark.slow_except("flux*")
def test_a_fused_file_misses_less_of_each_concept_than_a_sum(
    transformer_kind: str, transformer_folder: Path, files: list[str], tmp_path: Path
) -> None:
    report = lorasmith.fuse(files, transformer_folder, tmp_path / "fused.safetensors", steps=2, size=64)
    for stage in ("text", "picture"):
        missed = {method: sum(report.missed[method][stage]) for method in ("gradient", "weights", "sum")}
        assert missed["gradient"] < min(missed["weights"], missed["sum"]), stage
    model = ModelLayers.from_base(transformer_folder)
    # an attention of a text encoder gets zeros for its other projections, which A1111 needs
    assert read(report.file, model).layers.keys() >= read(Path(files[0].partition("=")[0]), model).layers.keys()


@pytest.mark.slow
def test_each_file_is_read_once(
    transformer_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []

    def counted(path: Path, *rest: Any) -> Any:
        paths.append(path.name)
        return read_tensors(path, *rest)

    monkeypatch.setattr("lorasmith.formats.read.read_tensors", counted)
    lorasmith.fuse(files, transformer_folder, tmp_path / "fused.safetensors", steps=1, size=64)
    assert paths == ["garp.safetensors", "zork.safetensors"]


def test_a_base_without_text_encoders_is_refused_before_it_is_loaded(
    transformer_kind: str, transformer_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alone").mkdir()
    base = tmp_path / "alone" / "base.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), base)

    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(fusion_files, "load", load)
    with pytest.raises(LorasmithError, match="fusing draws pictures with the base, which needs all of its parts"):
        lorasmith.fuse(files, base, tmp_path / "fused.safetensors", steps=2, size=64)

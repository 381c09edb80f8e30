"""LoRAs merged into a transformer in one file with its authors' names: rows of a fused module, halves that are stored
exchanged, fp8 weights with a scale."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.flux.source import FluxFolder
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.transformer_models.original_names import find_stored
from lorasmith.files import merge as merging
from lorasmith.files import model as models
from lorasmith.files.lora import LoraInput
from tests.transformer_bases import write_flux

WIDTH = 64
MODULES = {
    "double_blocks.0.img_attn.qkv": (3 * WIDTH, WIDTH),
    "single_blocks.1.linear1": (7 * WIDTH, WIDTH),
    "double_blocks.1.txt_mlp.2": (WIDTH, 4 * WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}


class OneFile(FluxFolder):
    """A small Flux whose transformer is in one file, and everything else in a folder."""

    layout = "single-file"

    def __init__(self, folder: Path, file: Path) -> None:
        super().__init__(str(file), folder)
        self.folder, self.path = folder, file

    def where(self, part: str) -> str:
        return str(self.folder / (self.folders[part][0] if part in self.folders else part))

    def raw(self, part: str) -> dict[str, TensorRef]:
        if part != "transformer":
            return super().raw(part)
        refs = read_header(self.path)[0]
        scales = {name: ref for name, ref in refs.items() if name.endswith(".scale_weight")}
        weights = {name: ref for name, ref in refs.items() if name not in scales}
        for name, scale in scales.items():
            key = name.replace(".scale_weight", ".weight")
            weights[key] = weights[key].with_scale(scale)
        return weights

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        if part != "transformer":
            return super().resolve(part, names)
        return find_stored(self.raw(part), names, bfl_place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


def write_lora(path: Path) -> dict[str, Tensor]:
    """A LoRA of sd-scripts for all modules; returns the changes by module."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for module, (rows, columns) in MODULES.items():
        flat = f"lora_unet_{module.replace('.', '_')}"
        down, up = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(1.0)}
        changes[module] = 0.5 * up @ down
    save_file(tensors, path)
    return changes


def merged(folder: Path, file: Path, lora: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.setattr(models, "find", lambda base: OneFile(folder, file))
    merging.merge(file, [LoraInput(lora)], output)
    return load_file(output)


def test_modules_of_the_file_get_the_change_of_the_lora_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = write_lora(tmp_path / "lora.safetensors")
    tensors = {f"{module}.weight": torch.randn(shape) for module, shape in MODULES.items()}
    save_file(tensors, tmp_path / "base.safetensors")
    found = merged(
        folder, tmp_path / "base.safetensors", tmp_path / "lora.safetensors", tmp_path / "m.safetensors", monkeypatch
    )
    assert found.keys() == tensors.keys()
    for module, change in changes.items():
        wanted = tensors[f"{module}.weight"] + change
        assert torch.allclose(found[f"{module}.weight"], wanted, atol=1e-5), module


def test_fp8_weights_keep_their_scale(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = write_lora(tmp_path / "lora.safetensors")
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for module, shape in MODULES.items():
        scale = torch.tensor(0.02)
        stored = (torch.randn(shape) / scale).to(torch.float8_e4m3fn)
        weights[module] = stored.float() * scale
        tensors |= {f"{module}.weight": stored, f"{module}.scale_weight": scale}
    save_file(tensors, tmp_path / "base.safetensors")
    found = merged(
        folder, tmp_path / "base.safetensors", tmp_path / "lora.safetensors", tmp_path / "m.safetensors", monkeypatch
    )
    for module, change in changes.items():
        assert found[f"{module}.weight"].dtype == torch.float8_e4m3fn
        numbers = found[f"{module}.weight"].float() * 0.02
        # fp8 has three bits after the point, and here numbers up to 448 * 0.02
        wanted = (weights[module] + change).clamp(-8.96, 8.96)
        assert torch.allclose(numbers, wanted, rtol=0.07, atol=2e-3), module

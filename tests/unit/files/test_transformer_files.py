"""Tools on LoRA files of Flux and SD3, with small bases: merged, extracted, resized, combined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.oft import OFT
from lorasmith.families.load import load
from lorasmith.files.combine import combine
from lorasmith.files.compare import compare
from lorasmith.files.convert import convert
from lorasmith.files.extract import extract
from lorasmith.files.lora import LoraInput, OutputFile, lora_factors, network_metadata, read
from lorasmith.files.lowrank import Truncation
from lorasmith.files.merge import merge
from lorasmith.files.model import ModelLayers
from lorasmith.files.resize import resize
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.write import write
from lorasmith.fusion.files import write_all
from tests.transformer_bases import WRITERS

LAYERS = ("transformer.*.0.attn.*", "transformer.*.0.proj_mlp", "transformer.*.1.norm1_context.linear", "*norm_out*")


@pytest.fixture(scope="module", params=["flux", "sd3"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def make(base: Path, path: Path, config: AdapterConfig, seed: int = 1) -> dict[str, Tensor]:
    """Write a LoRA with random weights in kohya's format; returns its changes by layer."""
    family = load(base, dtype=torch.float32)
    adapters = AdapterSet.create(config, family.named_layers(["transformer"]), family.layer_presets, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    encoded = Kohya().encode_adapters(adapters.adapters, family, adapters.weight_of)
    version = {"ss_base_model_version": "flux1" if family.kind == "flux" else "sd3"}
    write(path, encoded.tensors, encoded.metadata | version, torch.float32)
    changes: dict[str, Tensor] = {}
    for layer, adapter in adapters.adapters.items():
        changes[layer] = adapter.delta(adapters.weight_of(layer)).detach()
    return changes


def weights(path: Path) -> dict[str, Tensor]:
    family: Any = load(path, dtype=torch.float32)
    return {f"transformer.{name}": p.detach() for name, p in family.denoiser.named_parameters()}


def changes_in(path: Path, base: Path) -> dict[str, Tensor]:
    lora = read(path, ModelLayers.from_base(base))
    found: dict[str, Tensor] = {}
    for layer, tensors in lora.layers.items():
        up, down = lora_factors(tensors)
        found[layer] = up @ down
    return found


KINDS = [LoRA(rank=2, layers=LAYERS), LoHa(rank=2, layers=LAYERS), LoKr(rank=2, factor=4, layers=LAYERS)]
KINDS += [DoRA(rank=2, axis="output", layers=LAYERS), OFT(block_size=8, layers=LAYERS)]


@pytest.mark.slow_except("flux-*")
@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_merged_base_is_the_base_with_its_changes(config: Any, base: Path, tmp_path: Path) -> None:
    changes = make(base, tmp_path / "a.safetensors", config)
    merge(base, [LoraInput(tmp_path / "a.safetensors", 0.5)], tmp_path / "merged")
    before, after = weights(base), weights(tmp_path / "merged")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {f"{layer}.weight" for layer in changes}
    for layer, change in changes.items():
        wanted = before[f"{layer}.weight"] + 0.5 * change
        assert torch.allclose(after[f"{layer}.weight"], wanted, atol=1e-5), layer


def test_the_difference_of_two_models_is_extracted_by_module(base: Path, tmp_path: Path) -> None:
    changes = make(base, tmp_path / "a.safetensors", LoRA(rank=2, layers=LAYERS))
    merge(base, [LoraInput(tmp_path / "a.safetensors")], tmp_path / "merged")
    report = extract(
        tmp_path / "merged",
        base,
        Truncation(rank=8),
        OutputFile(tmp_path / "b.safetensors", torch.float32),
        layers=LAYERS,
    )
    assert report.error is not None
    assert report.error < 1e-3, "q, k and v of rank 2 are a module of rank 6"
    ranks = {t.shape[0] for name, t in load_file(tmp_path / "b.safetensors").items() if name.endswith("down.weight")}
    assert max(ranks) <= 8, "a rank is that of a module of the file"
    found = changes_in(tmp_path / "b.safetensors", base)
    for layer, change in changes.items():
        assert torch.allclose(found[layer], change, atol=2e-3), layer


def test_a_resized_file_has_the_rank_that_was_asked_for(base: Path, tmp_path: Path) -> None:
    make(base, tmp_path / "a.safetensors", LoRA(rank=3, layers=LAYERS))
    resize(tmp_path / "a.safetensors", Truncation(rank=4), OutputFile(tmp_path / "b.safetensors"), base=base)
    ranks = {t.shape[0] for name, t in load_file(tmp_path / "b.safetensors").items() if name.endswith("down.weight")}
    assert ranks == {3, 4}, "joint modules of rank 9 have 4, others stay"
    # nothing is lost where the rank suffices
    resize(tmp_path / "a.safetensors", Truncation(rank=12), OutputFile(tmp_path / "c.safetensors"), base=base)
    wanted, found = (changes_in(tmp_path / name, base) for name in ("a.safetensors", "c.safetensors"))
    assert all(torch.allclose(found[layer], change, atol=1e-5) for layer, change in wanted.items())


@pytest.mark.slow_except("flux*")
def test_files_are_added_up(base: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    first, second = (make(base, path, LoRA(rank=2, layers=LAYERS), seed) for seed, path in enumerate(paths))
    inputs = [LoraInput(paths[0], 0.5), LoraInput(paths[1])]
    for rank in (None, 16):
        output = tmp_path / f"sum{rank}.safetensors"
        combine(inputs, OutputFile(output), base=base, rank=rank)
        found = changes_in(output, base)
        for layer, change in first.items():
            assert torch.allclose(found[layer], 0.5 * change + second[layer], atol=1e-5), layer


@pytest.mark.slow_except("flux*")
def test_every_format_holds_the_same_changes(base: Path, tmp_path: Path) -> None:
    changes = make(base, tmp_path / "a.safetensors", LoRA(rank=2, alpha=1, layers=LAYERS))
    for form in ("kohya", "lycoris", "portable", "peft"):
        output = tmp_path / f"{form}.safetensors"
        convert(tmp_path / "a.safetensors", form, OutputFile(output), base=base)
        found = changes_in(output, base)
        assert found.keys() == changes.keys()
        assert all(torch.allclose(found[layer], change, atol=1e-6) for layer, change in changes.items())
    assert compare(tmp_path / "a.safetensors", tmp_path / "kohya.safetensors").identical
    convert(tmp_path / "a.safetensors", "diff", OutputFile(tmp_path / "diff.safetensors"), base=base)
    merge(base, [LoraInput(tmp_path / "diff.safetensors")], tmp_path / "merged")
    after, before = weights(tmp_path / "merged"), weights(base)
    for layer, change in changes.items():
        assert torch.allclose(after[f"{layer}.weight"], before[f"{layer}.weight"] + change, atol=1e-5), layer


def test_changed_files_name_the_network_module_of_their_family(base: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    make(base, source, LoRA(rank=2, layers=LAYERS))
    version = "flux1" if base.name.startswith("flux") else "sd3"
    module = "networks.lora_flux" if version == "flux1" else "networks.lora_sd3"
    metadata = {"ss_network_module": module, "ss_base_model_version": version}
    write(source, load_file(source), metadata, torch.float32)

    outputs = {name: OutputFile(tmp_path / f"{name}.safetensors") for name in ("resized", "combined", "fused")}
    resize(source, Truncation(rank=1), outputs["resized"], base=base)
    combine([LoraInput(source), LoraInput(source)], outputs["combined"], base=base)
    write_all(read(source, ModelLayers.from_base(base)), outputs["fused"], "fused", None, {})
    for output in outputs.values():
        with safe_open(output.path, "pt") as file:
            assert file.metadata()["ss_network_module"] == module, output.path


def test_other_adapter_kinds_in_t5_are_not_called_plain_lora() -> None:
    tensors = {
        "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": torch.zeros(2, 8),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.hada_w1_a": torch.zeros(8, 2),
    }
    assert network_metadata(tensors, {"ss_network_dim": "2"}, "sd3") == {}

"""What every file format promises for every adapter kind: the change comes back, or it refuses, naming layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import Adapter, AdapterConfig, kind_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.formats import kohya
from lorasmith.formats.base import Format
from lorasmith.formats.inspect import inspect
from lorasmith.formats.read import load
from lorasmith.formats.write import write

torch.set_num_threads(1)

FORMATS = sorted(registered(Format))
KINDS = sorted(registered(AdapterConfig))
LAYERS = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": nn.Linear(24, 16),
    "unet.mid_block.attentions.0.proj_in": nn.Conv2d(16, 16, 1),
    "unet.mid_block.resnets.0.conv1": nn.Conv2d(16, 32, 3, padding=1),
    "unet.mid_block.resnets.0.norm1": nn.GroupNorm(4, 16),
    "te.text_model.encoder.layers.0.self_attn.q_proj": nn.Linear(24, 24),
    "te.text_model.encoder.layers.0.self_attn.out_proj": nn.Linear(24, 24),
    "te.text_model.encoder.layers.0.mlp.fc1": nn.Linear(24, 48),
}
ALL = {*LAYERS, *(f"te.text_model.encoder.layers.0.self_attn.{p}_proj" for p in "kv")}


class Table:
    """A family's names, for the layers above."""

    def kohya_name(self, layer: str) -> str:
        return "lora_" + layer.replace(".", "_")

    def kohya_part(self, layer: str) -> None:
        return None

    def kohya_parts(self, name: str) -> dict[str, Any]:
        return {}

    def from_kohya(self, name: str) -> str | None:
        name = name.replace("lora_te1_", "lora_te_")
        return next((layer for layer in ALL if self.kohya_name(layer) == name), None)

    def peft_name(self, layer: str) -> str:
        return layer.replace("te.", "text_encoder.", 1) if layer.startswith("te.") else layer


class Model(nn.Module):
    """The layers, and where they are."""

    def __init__(self) -> None:
        super().__init__()
        for i, layer in enumerate(LAYERS.values()):
            self.add_module(f"layer{i}", copy.deepcopy(layer))
        self.places: dict[str, tuple[nn.Module, str]] = {name: (self, f"layer{i}") for i, name in enumerate(LAYERS)}


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"rank": 3, "alpha": 2}, {"rank": 3, "conv_alpha": 5, "tucker": True}, {"init": "pissa", "rank": 2}],
    "dora": [{"rank": 3, "alpha": 2}, {"rank": 3, "axis": "output"}],
    "loha": [{"rank": 2, "alpha": 1}, {"rank": 2, "tucker": True}],
    "lokr": [{"rank": 2, "alpha": 1, "factor": 4}, {"rank": 1, "tucker": True, "factor": 4}, {"full_matrix": True}],
    "glora": [{"rank": 2}],
    "oft": [{"block_size": 4}],
    "boft": [{"block_size": 4}],
    "full": [{"bias": True}],
}  # fmt: skip


def label(config: AdapterConfig) -> str:
    changed = config.model_dump(exclude_unset=True, exclude={"layers"})
    return " ".join([str(getattr(config, "kind", "")), *(f"{k}={v}" for k, v in changed.items())])


CONFIGS = [
    registered(AdapterConfig)[kind](layers=("*",), **settings)
    for kind in KINDS
    for settings in SETTINGS.get(kind, [{}])
]


def trained(config: AdapterConfig) -> tuple[Model, AdapterSet]:
    torch.manual_seed(0)
    model = Model().requires_grad_(False)
    adapters = AdapterSet.create(config, model.places, {}, seed=1)
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(torch.randn(p.shape), alpha=0.2)
    return model, adapters


def weight(model: Model, layer: str) -> torch.Tensor:
    owner, name = model.places[layer]
    return owner.get_submodule(name).weight  # type: ignore[return-value]


def restored(model: Model, path: Path, adapters: AdapterSet) -> dict[str, Adapter]:
    layers, strangers = kohya.decode(load(path).tensors, Table().from_kohya)
    assert not strangers
    found: dict[str, Adapter] = {}
    for layer, words in layers.items():
        kind = kind_of(words)
        assert kind is not None, words.keys()
        if layer in model.places:
            spec = adapters.adapters[layer].layer
            found[layer] = kind().restore(spec, weight(model, layer), words)
    return found


def encodable(form: Format, adapters: AdapterSet) -> Any:
    """The encoded tensors, or None if the format refuses them properly."""
    try:
        return form.encode_adapters(adapters.adapters, Table())
    except LorasmithError as error:
        refusal = str(error)
    assert "unet." in refusal or "te." in refusal
    return None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_the_change_comes_back(name: str, config: AdapterConfig, tmp_path: Path) -> None:
    model, adapters = trained(config)
    encoded = encodable(registered(Format)[name](), adapters)
    if encoded is None:
        assert name not in ("kohya", "lycoris"), "these hold every kind"
        return
    path = write(tmp_path / "x.safetensors", encoded.tensors, encoded.metadata, torch.float32)
    found = restored(model, path, adapters)
    assert found.keys() == adapters.adapters.keys()
    for layer, adapter in adapters.adapters.items():
        base = weight(model, layer)
        expected, got = adapter.delta(base), found[layer].delta(base)
        assert (got - expected).norm() <= 1e-5 * expected.norm() + 1e-6, layer
        change = adapter.bias_delta()
        if change is not None:
            torch.testing.assert_close(found[layer].bias_delta(), change)


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_who_reads_it_is_told(config: AdapterConfig, tmp_path: Path) -> None:
    """Portable files load everywhere without a remark that matters; the table has an answer for every reader."""
    _, adapters = trained(config)
    for name in FORMATS:
        encoded = encodable(registered(Format)[name](), adapters)
        if encoded is None:
            continue
        # the layers are narrower than those of any published model, so that the metadata have to name the family
        metadata = encoded.metadata | {"ss_base_model_version": "sd_v1"}
        path = write(tmp_path / f"{name}.safetensors", encoded.tensors, metadata, torch.float32)
        found = inspect(path)
        assert set(found["readers"]) == {"A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"}
        if name == "portable":
            assert {r["loads"] for r in found["readers"].values()} == {"yes"}, found["readers"]
        if name == "peft" and getattr(config, "kind", "") != "dora":
            assert found["readers"]["diffusers"]["loads"] == "yes"
        if name == "diff":
            others = {"diffusers"} if found["kind"] != "norm" else {"diffusers", "InvokeAI"}
            assert {r["loads"] for n, r in found["readers"].items() if n not in others} == {"yes"}, found["readers"]


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_differences_hold_every_kind_given_the_base(config: AdapterConfig, tmp_path: Path) -> None:
    model, adapters = trained(config)
    encoded = registered(Format)["diff"]().encode_adapters(adapters.adapters, Table(), adapters.weight_of)
    assert {name.rpartition(".")[2] for name in encoded.tensors} <= {"diff", "diff_b", "w_norm", "b_norm"}
    path = write(tmp_path / "x.safetensors", encoded.tensors, {}, torch.float32)
    found = restored(model, path, adapters)
    for layer, adapter in adapters.adapters.items():
        torch.testing.assert_close(found[layer].delta(), adapter.delta(weight(model, layer)), rtol=1e-4, atol=1e-6)


def test_one_alpha_a_component() -> None:
    config = registered(AdapterConfig)["lora"](layers=("*",), rank=4, alpha=2, conv_rank=2, conv_alpha=7)  # type: ignore[call-arg]
    _, adapters = trained(config)
    tensors = registered(Format)["kohya"]().encode_adapters(adapters.adapters, Table()).tensors
    for prefix in ("lora_unet_", "lora_te_"):
        assert len({float(t) for n, t in tensors.items() if n.startswith(prefix) and n.endswith(".alpha")}) == 1
    own = registered(Format)["lycoris"]().encode_adapters(adapters.adapters, Table()).tensors
    assert len({float(t) for n, t in own.items() if n.startswith("lora_unet_") and n.endswith(".alpha")}) == 2


def test_text_attention_is_whole() -> None:
    """All four projections, the missing ones as changes of nothing: OpenCLIP in A1111 takes four or none."""
    config = registered(AdapterConfig)["lora"](layers=("te.*q_proj",), rank=2)  # type: ignore[call-arg]
    _, adapters = trained(config)
    tensors = registered(Format)["kohya"]().encode_adapters(adapters.adapters, Table()).tensors
    stem = "lora_te_text_model_encoder_layers_0_self_attn_"
    assert {n for n in tensors if n.endswith("up.weight")} == {
        f"{stem}{p}_proj.lora_up.weight" for p in ("q", "k", "v", "out")
    }
    assert not tensors[f"{stem}out_proj.lora_up.weight"].any()
    assert tensors[f"{stem}q_proj.lora_up.weight"].any()

"""The changes that our adapters make against those of peft with the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.inits import of_weight, principal
from lorasmith.adapters.layer import spec_of
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA
from lorasmith.core.rng import torch_generator

peft = pytest.importorskip("peft")
torch.set_num_threads(1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 32)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.point = nn.Conv2d(16, 32, 1)


LAYERS = ("linear", "conv", "point")


def adapted(config: Any) -> tuple[Two, dict[str, Any]]:
    """peft's layers, their tensors moved, by name."""
    torch.manual_seed(3)
    model = Two()
    peft.inject_adapter_in_model(config, model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "base_layer" not in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model, {name: model.get_submodule(name) for name in LAYERS}


def words_of(layer: Any, table: dict[str, str]) -> dict[str, Tensor]:
    """Our words for peft's tensors of one layer."""
    found: dict[str, Tensor] = {}
    for attribute, word in table.items():
        holder = getattr(layer, attribute, {})
        if "default" in holder:
            value = holder["default"]
            found[word] = (value if isinstance(value, Tensor) else value.weight).detach()
    if "dora_scale" in found:  # theirs is (out,) or (1, out, 1, 1)
        magnitude, ones = found["dora_scale"].flatten(), found["lora_up.weight"].shape[2:]
        found["dora_scale"] = magnitude.view(-1, 1, *[1] * len(ones))
    return found


def merged(layer: Any) -> Tensor:
    layer.merge()
    weight = layer.get_base_layer().weight.detach().clone()
    layer.unmerge()
    return weight


def spec(layer: Any) -> LayerSpec:
    found = spec_of("unet.x", layer.get_base_layer())
    assert found is not None
    return found


LORA = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"}
HADA = {f"hada_{n}": f"hada_{n}" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
KRON = {f"lokr_{n}": f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("stable", [False, True], ids=["plain", "rslora"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_lora_and_dora(layer: str, stable: bool, dora: bool) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=3, target_modules=list(LAYERS), use_rslora=stable, use_dora=dora)
    _, layers = adapted(config)
    theirs = layers[layer]
    words = words_of(theirs, LORA) | {"alpha": torch.tensor(4 * theirs.scaling["default"])}
    base = theirs.get_base_layer().weight.detach()
    ours = (DoRA if dora else LoRA)().restore(spec(theirs), base, words)
    torch.testing.assert_close(ours.weight(base).detach(), merged(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(layer: str, tucker: bool) -> None:
    _, layers = adapted(peft.LoHaConfig(r=3, alpha=2, target_modules=list(LAYERS), use_effective_conv2d=tucker))
    theirs = layers[layer]
    words = words_of(theirs, HADA) | {"alpha": torch.tensor(2.0)}
    base = theirs.get_base_layer().weight.detach()
    ours = LoHa().restore(spec(theirs), base, words)
    torch.testing.assert_close(ours.weight(base).detach(), merged(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("settings", [{}, {"decompose_both": True}, {"use_effective_conv2d": True}], ids=str)
def test_lokr(layer: str, settings: dict[str, Any]) -> None:
    """With both matrices full peft still multiplies by alpha / rank, where every reader of files takes 1."""
    _, layers = adapted(peft.LoKrConfig(r=1, alpha=2, target_modules=list(LAYERS), **settings))
    theirs = layers[layer]
    words = words_of(theirs, KRON) | {"alpha": torch.tensor(2.0)}
    base = theirs.get_base_layer().weight.detach()
    ours = LoKr().restore(spec(theirs), base, words)
    torch.testing.assert_close(ours.weight(base).detach(), merged(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_inits_from_the_weight(init: str) -> None:
    """The factors that peft starts with, up to the sign of each rank, which the product does not see."""
    torch.manual_seed(3)
    model = Two()
    weight = model.linear.weight.detach().clone()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, init_lora_weights=init, target_modules=["linear"]), model)
    theirs: Any = model.linear
    product = (theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight).detach()
    if init == "pissa":
        product *= theirs.scaling["default"]
    up, down = of_weight(init, weight, 4, torch_generator(1, "x"))
    torch.testing.assert_close(up @ down, product, rtol=1e-3, atol=1e-5)


def test_the_randomised_svd_is_the_svd() -> None:
    generator = torch_generator(1, "x")
    matrix = torch.randn(300, 40, generator=generator) * 0.8 ** torch.arange(40)
    matrix = matrix @ torch.randn(40, 320, generator=generator) + 0.001 * torch.randn(300, 320, generator=generator)
    u, s, v = principal(matrix, 16, generator)
    full = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(s, full.S[:16], rtol=1e-3, atol=0)
    exact = full.U[:, :16] * full.S[:16] @ full.Vh[:16]
    assert ((u * s) @ v - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.parametrize("layer", LAYERS)
def test_gaussian_start_is_diffusers_choice(layer: str) -> None:
    """N(0, 1 / rank) for `down`, zeros for `up`."""
    config = peft.LoraConfig(r=8, init_lora_weights="gaussian", target_modules=list(LAYERS))
    torch.manual_seed(3)
    model = Two()
    peft.inject_adapter_in_model(config, model)
    theirs: Any = model.get_submodule(layer)
    base = theirs.get_base_layer().weight.detach()
    ours = LoRA(rank=8, init="gaussian").build(spec(theirs), base, torch_generator(1, "x"))
    assert ours is not None
    down = theirs.lora_A["default"].weight
    assert ours.down.shape == down.shape
    assert float(ours.down.detach().std()) == pytest.approx(float(down.detach().std()), rel=0.15)
    assert not ours.up.any()

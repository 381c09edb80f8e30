"""Choosing layers, and several adapters on one."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn

from lorasmith.adapters.attach import AdapterSet, select_layers
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.layer import Adapted
from lorasmith.adapters.layer_rule import LayerRule
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.norm import Norm
from lorasmith.adapters.oft import OFT
from lorasmith.core.errors import LorasmithError

torch.set_num_threads(1)
PRESETS = {"attention": ("unet.*.to_[qk]",), "all": ("*",)}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_k": nn.Linear(8, 8)})
        self.out = nn.ModuleList([nn.Linear(8, 4)])
        self.norm = nn.LayerNorm(8)
        self.requires_grad_(False)

    def places(self) -> dict[str, tuple[nn.Module, str]]:
        found: dict[str, tuple[nn.Module, str]] = {f"unet.attn.{n}": (self.attn, n) for n in ("to_q", "to_k")}
        return found | {"te.out.0": (self.out, "0"), "unet.norm": (self, "norm")}


def move(adapters: AdapterSet, seed: int = 0) -> AdapterSet:
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(torch.randn(p.shape), alpha=0.3)
    return adapters


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("attention", ["unet.attn.to_q", "unet.attn.to_k"]),
        ("unet.*.to_k", ["unet.attn.to_k"]),
        (("attention", "te.*"), ["unet.attn.to_q", "unet.attn.to_k", "te.out.0"]),
        (("attention", "!*.to_q"), ["unet.attn.to_k"]),
        (("!unet.*",), ["te.out.0"]),
    ],
)
def test_layers_by_preset_pattern_and_exception(layers: str | tuple[str, ...], expected: list[str]) -> None:
    assert select_layers(layers, Model().places(), PRESETS) == expected


@pytest.mark.parametrize("layers", ["atention", ("nothing.*",), ("all", "!*")])
def test_no_layer_is_an_error(layers: str | tuple[str, ...]) -> None:
    with pytest.raises(LorasmithError, match=r"chooses none of 4 layers.*attention, all"):
        select_layers(layers, Model().places(), PRESETS)
    if layers == "atention":
        with pytest.raises(LorasmithError, match='Did you mean "attention"'):
            select_layers(layers, Model().places(), PRESETS)


def test_a_kind_that_fits_no_chosen_layer_is_an_error() -> None:
    with pytest.raises(LorasmithError, match='"norm" fits none'):
        AdapterSet.create(Norm(layers="attention"), Model().places(), PRESETS, seed=0)


def test_rules_for_some_layers() -> None:
    rules = (LayerRule(layers="*.to_q", rank=2, alpha=1, lr=0.5), LayerRule(layers="te.*", lr=2))
    config = LoRA(layers="all", rank=4, overrides=rules)
    adapters = AdapterSet.create(config, Model().places(), PRESETS, seed=0)
    assert [(a.rank, a.alpha) for a in adapters.adapters.values()] == [(2, 1), (4, 4), (4, 4)]
    assert [len(p) for p in adapters.parameters_by_rate("unet").values()] == [2, 2]
    assert set(adapters.parameters_by_rate("unet")) == {0.5, 1.0}
    assert set(adapters.parameters_by_rate("te")) == {2.0}


def test_rules_that_change_nothing_are_errors() -> None:
    config = LoRA(layers="attention", overrides=(LayerRule(layers="te.*", rank=2),))
    with pytest.raises(LorasmithError, match=r'overrides: "te\.\*" fits none of the 2 layers'):
        AdapterSet.create(config, Model().places(), PRESETS, seed=0)
    with pytest.raises(ValueError, match="no rank"):
        OFT(overrides=(LayerRule(layers="*", rank=2),))


def test_the_choice_of_layers_does_not_move_the_start_of_others() -> None:
    one = AdapterSet.create(LoRA(layers="all"), Model().places(), PRESETS, seed=4)
    other = AdapterSet.create(LoRA(layers="unet.*.to_k"), Model().places(), PRESETS, seed=4)
    key = "unet.attn.to_k/down"
    assert torch.equal(one.state_dict()[key], other.state_dict()[key])
    again = AdapterSet.create(LoRA(layers="all"), Model().places(), PRESETS, seed=5)
    assert not torch.equal(one.state_dict()[key], again.state_dict()[key])


def test_convolutions_have_their_own_rank_and_alpha() -> None:
    holder = nn.ModuleDict({"a": nn.Conv2d(4, 4, 3), "b": nn.Conv2d(4, 4, 1), "c": nn.Linear(4, 4)})
    places: dict[str, tuple[nn.Module, str]] = {f"unet.{n}": (holder, n) for n in "abc"}
    config = LoRA(layers="*", rank=4, alpha=8, conv_rank=2, conv_alpha=1)
    found = AdapterSet.create(config, places, {}, seed=0).adapters
    assert [(a.rank, a.alpha) for a in found.values()] == [(2, 1), (4, 8), (4, 8)]
    stable = AdapterSet.create(config.model_copy(update={"rank_stabilised": True}), places, {}, seed=0).adapters
    assert (stable["unet.c"].alpha or 0) / 4 == pytest.approx(8 / 4**0.5)


def test_strength_by_component() -> None:
    model = Model()
    adapters = move(AdapterSet.create(LoRA(layers="all", rank=2), model.places(), PRESETS, seed=0)).attach()
    x = torch.randn(3, 8)
    adapters.set_strength({"te": 0.0})
    assert torch.equal(model.out[0](x), model.out[0].base(x))  # type: ignore[union-attr]
    assert not torch.equal(model.attn["to_q"](x), model.attn["to_q"].base(x))  # type: ignore[union-attr]
    assert adapters.strength == {"unet": 1.0, "te": 0.0}
    with adapters.enabled(False):
        assert torch.equal(model.attn["to_q"](x), model.attn["to_q"].base(x))  # type: ignore[union-attr]
    assert adapters.strength == {"unet": 1.0, "te": 0.0}


def test_two_additive_kinds_add_up() -> None:
    model, x = Model(), torch.randn(3, 8)
    first = move(AdapterSet.create(LoRA(layers="attention", rank=2), model.places(), PRESETS, seed=0), 1)
    second = move(AdapterSet.create(LoRA(layers="attention", rank=3), model.places(), PRESETS, seed=1), 2)
    base = model.attn["to_q"](x)
    places = model.places()
    first.attach()
    alone = model.attn["to_q"](x) - base
    AdapterSet.attach(second).set_strength(0.5)
    both = model.attn["to_q"](x) - base
    first.detach()
    torch.testing.assert_close(both - alone, model.attn["to_q"](x) - base, rtol=1e-4, atol=1e-6)
    second.detach()
    assert not isinstance(places["unet.attn.to_q"][0].get_submodule("to_q"), Adapted)


@pytest.mark.parametrize("kinds", [(LoRA, DoRA), (DoRA, LoRA), (OFT, LoRA)])
def test_others_act_one_after_the_other(kinds: tuple[type, type]) -> None:
    """In the order of attaching: the second changes the weight that the first has left, as merging one by one would."""
    model, x = Model(), torch.randn(3, 8)
    sets = [
        move(AdapterSet.create(kind(layers="attention"), model.places(), PRESETS, seed=i), i)
        for i, kind in enumerate(kinds)
    ]
    for adapters in sets:
        adapters.attach().set_strength(0.7)
    together = model.attn["to_q"](x)
    for adapters in reversed(sets):
        adapters.detach()
    for adapters in sets:
        adapters.merge(0.7)
    torch.testing.assert_close(model.attn["to_q"](x), together, rtol=1e-4, atol=1e-5)
    for adapters in reversed(sets):
        adapters.unmerge()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_several_kinds_on_one_layer_come_off_in_any_order(order: tuple[int, ...]) -> None:
    """What is left acts as if the others had never been there; at the end the very modules and weights are back."""
    model, x = Model(), torch.randn(3, 8)
    places = model.places()
    original, state = model.attn["to_q"], {k: v.clone() for k, v in model.state_dict().items()}
    kinds = (LoRA(layers="attention", rank=2), OFT(layers="attention", block_size=4), LoHa(layers="attention", rank=2))
    sets = [move(AdapterSet.create(kind, places, PRESETS, seed=i), i) for i, kind in enumerate(kinds)]
    strengths = (0.5, 0.8, -1.5)
    for adapters, strength in zip(sets, strengths, strict=True):
        adapters.attach().set_strength(strength)
    left = [0, 1, 2]
    for gone in order:
        weight = model.attn["to_q"].base.weight  # type: ignore[union-attr]
        for i in left:
            weight = sets[i].adapters["unet.attn.to_q"].weight(weight, strengths[i])  # type: ignore[arg-type]
        expected = torch.nn.functional.linear(x, weight, original.bias)  # type: ignore[arg-type]
        torch.testing.assert_close(model.attn["to_q"](x), expected, rtol=1e-4, atol=1e-5)
        sets[gone].detach()
        left.remove(gone)
    assert model.attn["to_q"] is original
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_order_counts_only_where_a_kind_reads_the_weight() -> None:
    model, x = Model(), torch.randn(3, 8)
    lora, loha, oft = (
        move(AdapterSet.create(kind(layers="attention"), model.places(), PRESETS, seed=i), i)
        for i, kind in enumerate((LoRA, LoHa, OFT))
    )

    def out(*sets: AdapterSet) -> torch.Tensor:
        for adapters in sets:
            adapters.attach()
        found = model.attn["to_q"](x).detach()
        for adapters in sets:
            adapters.detach()
        return found

    base = out()
    torch.testing.assert_close(out(lora, loha), out(loha, lora), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out(lora, loha) - base, out(lora) + out(loha) - 2 * base, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out(lora, oft), out(oft, lora), atol=1e-3)


def test_merging_needs_detached_adapters_and_happens_once() -> None:
    model = Model()
    adapters = move(AdapterSet.create(LoRA(layers="attention"), model.places(), PRESETS, seed=0)).attach()
    with pytest.raises(LorasmithError, match="detach"):
        adapters.merge()
    adapters.detach()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapters.merge()
    with pytest.raises(LorasmithError, match="once"):
        adapters.merge()
    adapters.unmerge()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_states_of_other_layers_are_refused() -> None:
    model = Model()
    adapters = AdapterSet.create(LoRA(layers="attention"), model.places(), PRESETS, seed=0)
    other = AdapterSet.create(LoRA(layers="te.*"), model.places(), PRESETS, seed=0)
    with pytest.raises(LorasmithError, match="other layers"):
        adapters.load_state_dict(other.state_dict())


def test_what_is_asked_of_the_layer_is_answered() -> None:
    model = Model()
    AdapterSet.create(LoRA(layers="all"), model.places(), PRESETS, seed=0).attach()
    layer = model.attn["to_q"]
    assert layer.in_features == 8
    assert layer.weight.shape == (8, 8)
    assert layer.bias is not None
    with pytest.raises(AttributeError):
        _ = layer.no_such_thing


def test_adapters_are_where_the_model_computes_and_not_where_its_frozen_weights_wait() -> None:
    """Weights that stay on the host are copied for each block; adapters are never copied. `meta` stands for the GPU."""
    model = Model()
    adapters = AdapterSet.create(LoRA(layers="all"), model.places(), PRESETS, seed=0, device=torch.device("meta"))
    assert {p.device.type for p in adapters.parameters()} == {"meta"}
    assert {model.attn["to_q"].weight.device.type, adapters.weight_of("unet.attn.to_q").device.type} == {"cpu"}
    assert adapters.weight_beside("unet.attn.to_q").device.type == "meta"

"""What every adapter kind promises, on every layer type that it takes. A new kind is tested by being registered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import batch_key_of
from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec, kind_of
from lorasmith.adapters.layer import spec_of
from lorasmith.core.registry import registered

torch.set_num_threads(1)

KINDS = sorted(registered(AdapterConfig))
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"scalar": True}, {"tucker": True}, {"init": "pissa"}, {"init": "olora"}, {"rank_stabilised": True}],
    "tlora": [{"init": "svd_down"}],
    "dora": [{"axis": "output"}, {"over": "loha"}, {"over": "lokr"}],
    "loha": [{"scalar": True}, {"tucker": True}],
    "lokr": [{"scalar": True}, {"decompose_both": True, "rank": 1}, {"full_matrix": True}, {"tucker": True, "rank": 2}],
    "oft": [{"constraint": 0.01}],
    "boft": [{"constraint": 0.01}],
    "glora": [{"scalar": True}],
    "dylora": [{"scalar": True}, {"unit": 2}],
    "full": [{"bias": True}],
}
"""Settings beside the defaults, for kinds that have them."""
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 24), (2, 5, 12)),
    "tall": (nn.Linear(24, 8, bias=False), (3, 24)),
    "conv1x1": (nn.Conv2d(12, 16, 1), (2, 12, 6, 7)),
    "conv3x3": (nn.Conv2d(12, 16, 3, padding=1), (2, 12, 6, 7)),
    "strided": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 7, 6)),
    "layernorm": (nn.LayerNorm(12), (2, 5, 12)),
    "groupnorm": (nn.GroupNorm(4, 12), (2, 12, 5, 4)),
}


def configs() -> list[AdapterConfig]:
    found = []
    for kind, cls in registered(AdapterConfig).items():
        for settings in [{}, *VARIANTS.get(kind, [])]:
            if "rank" in cls.model_fields:
                settings = {"rank": 3, "alpha": 2.0} | settings
            if "block_size" in cls.model_fields:
                settings = {"block_size": 4} | settings
            found.append(cls.model_validate({"layers": ("*",)} | settings))
    return found


def label(config: AdapterConfig) -> str:
    settings = config.model_dump(exclude_defaults=True, exclude={"layers", "rank", "alpha", "block_size"})
    return " ".join([str(getattr(config, "kind", "")), *(f"{k}={v}" for k, v in settings.items())])


LIKE_OTHERS = ("tall", "conv1x1", "strided")
"""Layers on which variants of a kind run in the slow tests. By default these run on one matrix and one convolution."""


def marks_of(config: AdapterConfig, layer: str) -> tuple[pytest.MarkDecorator, ...]:
    is_variant = label(config) != getattr(config, "kind", "")
    return (pytest.mark.slow,) if is_variant and layer in LIKE_OTHERS else ()


CASES = [
    pytest.param(config, layer, id=f"{label(config)} {layer}", marks=marks_of(config, layer))
    for config in configs()
    for layer in LAYERS
    if config.build(spec_of("unet.x", LAYERS[layer][0]), LAYERS[layer][0].weight, torch.Generator())  # type: ignore[arg-type]
]


def prepared(config: AdapterConfig, layer: str, dtype: torch.dtype = torch.float32) -> tuple[Any, AdapterSet]:
    """A model of that one layer, frozen, and its adapter, attached."""
    torch.manual_seed(1)
    module = copy.deepcopy(LAYERS[layer][0])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    model: Any = nn.Module()
    model.x = module.to(dtype).requires_grad_(False)
    adapters = AdapterSet.create(config, {"unet.x": (model, "x")}, {}, seed=3)
    adapters.attach().eval()
    return model, adapters


def disturb(adapters: AdapterSet, seed: int = 5) -> None:
    """Move all parameters, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapters.parameters():
            sign = torch.randint(0, 2, p.shape, generator=generator) * 2 - 1
            p.add_((0.05 + 0.15 * torch.rand(p.shape, generator=generator)) * sign)


def given(layer: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(LAYERS[layer][1], generator=torch.Generator().manual_seed(2)).to(dtype)


def only(adapters: AdapterSet) -> Adapter:
    return adapters.adapters["unet.x"]


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> None:
    assert (a - b).norm() <= tolerance * b.norm(), float((a - b).norm() / b.norm())


def test_every_kind_takes_some_layer() -> None:
    assert {case.values[0].kind for case in CASES} == set(KINDS)  # type: ignore[union-attr]


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_the_start_is_the_base_model(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    x = given(layer)
    out = model.x(x)
    adapters.detach()
    torch.testing.assert_close(out, model.x(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_forward_is_the_merged_weight(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    disturb(adapters)
    x = given(layer)
    for strength in (1.0, 0.6, -0.5):
        adapters.set_strength(strength)
        adapted = model.x(x)
        adapters.detach()
        base, weight = model.x(x), model.x.weight.clone()
        adapters.merge(strength)
        merged = model.x(x)
        moved = model.x.weight - weight
        adapters.unmerge()
        adapters.attach()
        close(adapted, merged)
        assert (adapted - base).norm() > 1e-3 * base.norm()
        close(moved, strength * only(adapters).delta(weight).detach(), 1e-4)  # strength is a blend


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_detach_is_the_inverse_of_attach(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    adapted, x = model.x, given(layer)
    disturb(adapters)
    out = adapted(x)
    with adapters.enabled(False):
        plain = model.x(x)
    adapters.detach()
    assert model.x is adapted.base
    assert torch.equal(plain, model.x(x))
    adapters.attach()
    assert torch.equal(out, model.x(x))


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_some_parameter_learns_at_once_and_all_soon(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    x = given(layer).requires_grad_(True)
    # rotations keep the sum of squares, so the distance to a point is what they can make smaller
    (model.x(x) - 1).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.parameters())
    assert x.grad is not None
    assert all(not p.requires_grad for p in model.x.base.parameters())
    disturb(adapters)
    adapters_grads = torch.autograd.grad((model.x(x) - 1).square().sum(), adapters.parameters())
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in adapters_grads)


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_gradients_are_those_of_the_merged_weight(config: AdapterConfig, layer: str) -> None:
    """The forward pass, however it is computed, has the gradients of y = op(x, W') + b'."""
    model, adapters = prepared(config, layer)
    disturb(adapters)
    x, parameters = given(layer), adapters.parameters()
    adapter, base = only(adapters), model.x.base
    found = torch.autograd.grad((model.x(x) - 1).square().sum(), parameters)
    named = {"weight": adapter.weight(base.weight)}
    if (change := adapter.bias_delta()) is not None:
        named["bias"] = base.bias + change
    merged = torch.func.functional_call(base, named, (x,))
    expected = torch.autograd.grad((merged - 1).square().sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize(("config", "layer"), [case for case in CASES if case.values[1] in ("linear", "tall")])
def test_changes_of_several_layers_at_once_are_those_of_each(config: AdapterConfig, layer: str) -> None:
    """In float64, with the gradients of all parameters."""
    sets = [prepared(config, layer)[1] for _ in range(3)]
    for seed, adapters in enumerate(sets):
        disturb(adapters, seed)
    several = [only(adapters).double() for adapters in sets]
    if batch_key_of(several[0]) is None:
        pytest.skip("computes one change at a time")
    bases = [torch.randn(several[0].layer.shape, dtype=torch.float64) for _ in sets]
    weight = torch.randn(several[0].layer.shape, dtype=torch.float64)

    expected = [in_float64(adapter.delta, base) for adapter, base in zip(several, bases, strict=True)]
    expected_gradients = [
        torch.autograd.grad((delta * weight).sum(), list(adapter.parameters()))
        for adapter, delta in zip(several, expected, strict=True)
    ]
    names = [name for name, _ in several[0].named_parameters()]
    parameters = {
        name: torch.stack([adapter.get_parameter(name).detach() for adapter in several]).requires_grad_()
        for name in names
    }
    found = in_float64(lambda _: several[0].deltas(parameters, bases), bases[0])
    torch.testing.assert_close(found, torch.stack(expected))
    gradients = torch.autograd.grad((found * weight).sum(), list(parameters.values()))
    for index, name in enumerate(names):
        of_layers = torch.stack([layer_gradients[index] for layer_gradients in expected_gradients])
        torch.testing.assert_close(gradients[index], of_layers, msg=name)


def in_float64(compute: Callable[[Tensor], Tensor], base: Tensor) -> Tensor:
    """What is computed of a weight, without the casts to float32 in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        return compute(base)


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_a_large_batch_is_computed_like_its_samples(config: AdapterConfig, layer: str) -> None:
    """Kinds that change the output of a small batch and the weight for a large one compute the same."""
    model, adapters = prepared(config, layer)
    disturb(adapters)
    sample = given(layer)[:1]
    many = torch.cat([sample, torch.randn(400, *sample.shape[1:])])
    close(model.x(many)[:1], model.x(sample))


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_low_precision_bases_have_float32_adapters(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer, torch.bfloat16)
    disturb(adapters)
    assert all(p.dtype == torch.float32 for p in adapters.parameters())
    out = model.x(given(layer, torch.bfloat16))
    assert out.dtype == torch.bfloat16
    exact, other = prepared(config, layer)
    other.load_state_dict(adapters.state_dict())
    exact.x.base.load_state_dict(model.x.base.state_dict())
    close(out.float(), exact.x(given(layer, torch.bfloat16).float()), 0.02)


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_copies_are_independent(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    disturb(adapters)
    x = given(layer)
    other, before = copy.deepcopy(model), model.x(x)
    assert torch.equal(other.x(x), before)
    disturb(adapters, seed=6)
    assert torch.equal(other.x(x), before)
    assert not torch.equal(model.x(x), before)


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_a_checkpoint_gives_the_same_adapter(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    disturb(adapters)
    twin, others = prepared(config, layer)
    others.load_state_dict(adapters.state_dict())
    assert torch.equal(model.x(given(layer)), twin.x(given(layer)))


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_file_tensors_give_the_same_weight(config: AdapterConfig, layer: str) -> None:
    model, adapters = prepared(config, layer)
    disturb(adapters)
    adapter = only(adapters)
    adapter.max_norm = None
    tensors, base = adapter.tensors(), model.x.base.weight
    kind = kind_of(tensors)
    assert kind is not None
    assert kind.model_fields["kind"].default == (config.writes or config.kind)  # type: ignore[attr-defined]
    restored = kind().restore(adapter.layer, base, tensors)
    close(restored.delta(base), adapter.delta(base), 1e-5)
    if (change := adapter.bias_delta()) is not None:
        torch.testing.assert_close(restored.bias_delta(), change)
    assert all(t.is_contiguous() for t in restored.tensors().values())


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_dropouts_act_in_training_only(config: AdapterConfig, layer: str) -> None:
    for name in ("dropout", "rank_dropout", "module_dropout"):
        model, adapters = prepared(config.model_copy(update={name: 0.5}), layer)
        disturb(adapters)
        x = given(layer)
        assert torch.equal(model.x(x), model.x(x))
        adapters.train()
        outs = [model.x(x) for _ in range(8)]
        assert any(not torch.equal(outs[0], out) for out in outs[1:]), name
        adapters.detach()
        weights = [only(adapters).weight(model.x.weight) for _ in range(2)]
        assert torch.equal(*weights)  # what is merged is whole, even in training


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_the_norm_of_the_change_is_capped(config: AdapterConfig, layer: str) -> None:
    if getattr(config, "init", "") in ("pissa", "olora"):
        with pytest.raises(ValueError, match="max_norm"):
            type(config).model_validate(config.model_dump() | {"max_norm": 0.1})
        return
    model, adapters = prepared(config, layer)
    disturb(adapters)
    adapter, base = only(adapters), model.x.base.weight
    inner: Adapter = getattr(adapter, "inner", adapter)
    norm = inner.delta(base).norm().item()
    adapter.max_norm = 2 * norm
    adapters.limit_norms()
    assert inner.delta(base).norm().item() == pytest.approx(norm, rel=1e-4)
    adapter.max_norm = norm / 3
    adapters.limit_norms()
    assert inner.delta(base).norm().item() == pytest.approx(norm / 3, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_unknown_words(kind: str) -> None:
    config = registered(AdapterConfig)[kind]
    assert config.reads
    assert kind_of({}) is None
    for case in CASES:
        if case.values[0].kind == kind:  # type: ignore[union-attr]
            tensors = only(prepared(*case.values)[1]).tensors()  # type: ignore[arg-type]
            assert kind_of(tensors | {"strange": torch.zeros(1)}) is None
            return


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_fits_says_by_shapes_alone_what_restoring_would_show(config: AdapterConfig, layer: str) -> None:
    """The tensors of one layer on every layer: `fits` agrees with a change that is really computed."""
    _, adapters = prepared(config, layer)
    tensors = only(adapters).tensors()
    kind = kind_of(tensors)
    assert kind is not None
    for name, (module, _) in LAYERS.items():
        spec = spec_of("unet.x", module)
        assert spec is not None
        expected = is_restorable(kind, spec, tensors)
        # these reshape what they compute, so that a weight of as many numbers would be changed at random
        if kind.model_fields["kind"].default in ("loha", "full") and spec.shape[0] != only(adapters).layer.shape[0]:
            expected = False
        assert kind.fits(spec, tensors) is expected, name


@pytest.mark.parametrize(("config", "layer"), CASES)
def test_tensors_that_are_missing_or_damaged_do_not_fit(config: AdapterConfig, layer: str) -> None:
    _, adapters = prepared(config, layer)
    adapter = only(adapters)
    tensors = adapter.tensors()
    kind = kind_of(tensors)
    assert kind is not None
    optional = {"alpha", "diff_b", "b_norm", "lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2"}
    # full and norm take an absent weight for no change of it
    optional |= {"diff", "w_norm"}
    for name in tensors.keys() - optional:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        assert not kind.fits(adapter.layer, rest), name
    for name, tensor in tensors.items():
        assert not kind.fits(adapter.layer, tensors | {name: tensor.new_zeros(0)}), name
        if tensor.dim():
            longer = torch.cat([tensor, tensor[:1]])
            assert not kind.fits(adapter.layer, tensors | {name: longer}), name


def is_restorable(kind: type[AdapterConfig], spec: LayerSpec, tensors: dict[str, Tensor]) -> bool:
    base = torch.ones(spec.shape)
    try:
        return kind().restore(spec, base, tensors).delta(base).shape == base.shape
    except (RuntimeError, IndexError, ValueError):
        return False

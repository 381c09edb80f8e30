"""Lean operations give what the plain ones give, and keep less for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families import ops
from lorasmith.families.ops import frozen_conv

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": (3, 5), "padding": (1, 2), "dilation": (1, 2)},
]


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_conv, "SMALLEST", 0)


def frozen(**options: Any) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(6, 8, **options).double().requires_grad_(False)


def kept(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps, weights not counted."""
    total = 0
    own = {p.data_ptr() for p in layer.parameters()}

    def pack(t: Tensor) -> Tensor:
        nonlocal total
        total += t.nbytes if t.data_ptr() not in own else 0
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ops.conv(layer, x)
    return total


@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_outputs_and_gradients_of_frozen_convolutions(
    options: dict[str, Any], product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(frozen_conv.WEIGHTS_PER_PIXEL, torch.float64, 0 if product else 10**9)
    layer = frozen(**options)
    x = torch.randn(3, 6, 7, 10, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    grad = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, grad)
    found = ops.conv(layer, x)
    assert found.grad_fn is not None
    assert "FrozenConv" in found.grad_fn.name()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, x, grad)[0], wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(ops.conv(layer, x), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda v: frozen_conv.conv(layer, v), (x[:1, :, :4, :6].detach().requires_grad_(),))


def test_nothing_of_the_input_is_kept() -> None:
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    assert kept(frozen(kernel_size=3, padding=1), x) == 0
    assert kept(nn.Conv2d(6, 8, 3).double(), x) >= x.nbytes


def test_bfloat16_is_as_close_as_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 64, 4, 4, requires_grad=True)
    grad = torch.randn(2, 64, 4, 4)
    exact = layer(x), torch.autograd.grad(layer(x), x, grad)[0]
    low, xl = nn.Conv2d(64, 64, 3, padding=1).bfloat16().requires_grad_(False), x.detach().bfloat16().requires_grad_()
    low.load_state_dict(layer.state_dict())

    def errors(output: Tensor) -> list[float]:
        values = output, torch.autograd.grad(output, xl, grad.bfloat16())[0]
        return [((v.float() - e).norm() / e.norm()).item() for v, e in zip(values, exact, strict=True)]

    plain = errors(low(xl))
    monkeypatch.setattr(frozen_conv, "_WEIGHTS_PER_PIXEL_OTHERS", 0)
    for ours, theirs in zip(errors(ops.conv(low, xl)), plain, strict=True):
        assert ours < 1.5 * theirs


def test_it_stands_back_where_it_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    trained = frozen(kernel_size=3).requires_grad_(True)
    hooked = frozen(kernel_size=3)
    hooked.register_forward_hook(lambda *_: None)
    others = [
        trained,
        hooked,
        nn.Conv2d(6, 6, 3, groups=2).double().requires_grad_(False),
        nn.Sequential(frozen(kernel_size=3)),
    ]
    for layer in others:
        assert not frozen_conv.applies(layer, x)
    assert frozen_conv.applies(frozen(kernel_size=3), x)
    monkeypatch.setattr(frozen_conv, "SMALLEST", 1000)
    assert not frozen_conv.applies(frozen(kernel_size=3), x)


def test_a_weight_changed_between_forward_and_backward_is_noticed() -> None:
    layer = frozen(kernel_size=3, padding=1)
    x = torch.randn(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    output = ops.conv(layer, x)
    layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()

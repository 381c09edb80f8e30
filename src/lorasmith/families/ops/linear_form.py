"""A layer as one matrix and a low-rank product, for kernels that compute several layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import Adapter, Product, batch_key_of
from lorasmith.adapters.layer import Adapted


@dataclass(frozen=True)
class LinearForm:
    """A layer whose output is x @ (weight + sum of products + change)^T + bias, with a frozen weight and bias.

    `layer`: the frozen module; `weight`: (out, in); `bias`: (out,). `products`: of an adapter, with factors (out, rank)
    and (rank, in); none without one. `change`: an adapter whose whole change is a further weight.
    """

    layer: nn.Module
    weight: Tensor
    bias: Tensor | None
    products: tuple[Product, ...] = ()
    change: Adapter | None = None

    @property
    def rank(self) -> int:
        """The rank of the change; 0 without an adapter."""
        return sum(product.down.shape[0] for product in self.products)

    def renewed(self) -> LinearForm:
        """The same with the weight that the layer has now."""
        layer: Any = self.layer
        return replace(self, weight=layer.weight.flatten(1))


def linear_form(layer: nn.Module) -> LinearForm | None:
    """The form of a linear layer or a 1x1 convolution, with at most one adapter; None where the layer has no such form.

    It has none if its weight is trained, if hooks would be passed over, or if the adapters change it in another way.
    """
    base: Any = layer.base if isinstance(layer, Adapted) else layer
    if not _is_pointwise(base) or any(_has_hooks(module) for module in (layer, base)):
        return None
    form = LinearForm(base, base.weight.flatten(1), base.bias)
    if not isinstance(layer, Adapted):
        return form

    # at most one adapter, and that one a plain product
    if any(adapter.dropout.module for adapter in layer.adapters if adapter.training):  # pyright: ignore
        return None
    active = layer.active()
    if not active:
        return form
    if len(active) > 1:
        return None
    return _with_adapter(form, *active[0])


def _with_adapter(form: LinearForm, adapter: Adapter, strength: float) -> LinearForm | None:
    """The form of a layer with its adapter; None if the adapter's change has no such form."""
    products = _as_matrices(adapter.products(), strength)
    if products:
        return replace(form, products=products)
    is_batched = strength == 1 and adapter.layer.kind == "linear" and batch_key_of(adapter) is not None
    return replace(form, change=adapter) if is_batched else None


def _as_matrices(products: Sequence[Product], strength: float) -> tuple[Product, ...]:
    """Products of matrices, with a strength."""
    return tuple(
        replace(product, up=product.up.flatten(1), down=product.down.flatten(1), scale=product.scale * strength)
        for product in products
    )


def _is_pointwise(layer: Any) -> bool:
    """Whether a module is a frozen linear layer or 1x1 convolution with an ordinary weight."""
    if type(layer) is nn.Conv2d:
        is_plain = (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1, 1), (1, 1), (0, 0), 1)
    else:
        is_plain = type(layer) is nn.Linear
    return (
        is_plain
        and type(layer.weight) is nn.Parameter  # not a copy that is on the device for one call (streaming.py)
        and not layer.weight.requires_grad
        and (layer.bias is None or not layer.bias.requires_grad)
        and layer.weight.dtype in (torch.bfloat16, torch.float16, torch.float32)
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)

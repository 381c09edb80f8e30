"""A frozen layer with adapters on it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, LayerSpec, run_layer


class Adapted(nn.Module):
    """Stands in the place of `base` and adds the changes of its adapters.

    If all adapters are additive, the output is base(x) + sum of strength * branch(x). A single adapter can also be one
    that changes the output. Otherwise the weight is changed, by one adapter after the other in the order in which they
    were attached.
    """

    def __init__(self, base: nn.Module, spec: LayerSpec) -> None:
        super().__init__()
        self.base = base
        self.spec = spec
        self.adapters = nn.ModuleList()
        self.strengths: list[float] = []

    def add(self, adapter: Adapter) -> None:
        """Put an adapter on top, at strength 1."""
        self.adapters.append(adapter)
        self.strengths.append(1.0)

    def remove(self, adapter: Adapter) -> None:
        """Take an adapter off again."""
        index = list(self.adapters).index(adapter)
        del self.adapters[index]
        del self.strengths[index]

    def set_strength(self, adapter: Adapter, strength: float) -> None:
        """Set the strength of one of the adapters."""
        self.strengths[list(self.adapters).index(adapter)] = strength

    def active(self) -> list[tuple[Adapter, float]]:
        """The adapters that take part in this pass, with their strengths."""
        pairs: list[tuple[Adapter, float]] = []
        for adapter, strength in zip(self.adapters, self.strengths, strict=True):
            assert isinstance(adapter, Adapter)
            if strength != 0 and not adapter.skip():
                pairs.append((adapter, strength))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for `x`, of the shape and dtype that the base's has."""
        active = self.active()
        # the cheap way: what each adapter adds does not depend on the weight
        if all(adapter.additive for adapter, _ in active):
            out = self.base(x)
            for adapter, strength in active:
                out = adapter.add_to(out, x, strength)
            return out
        if len(active) == 1 and active[0][0].changes_output(self._positions(x)):
            return self._with_changed_output(x, *active[0])
        weight, bias = self.changed_weight(active), self.changed_bias(active)
        if self.spec.kind == "norm":
            return run_norm(self.base, x, weight, bias)
        base_weight = tensor_of(self.base, "weight")
        if base_weight.dtype == torch.float32:
            return run_layer(self.spec, x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        # added to a weight in low precision, a small change would be rounded away: run the change by itself
        delta = (weight - base_weight.float()).to(x.dtype)
        bias_delta = None if bias is None else (bias - self._base_bias()).to(x.dtype)
        return self.base(x) + run_layer(self.spec, x, delta, bias_delta)

    def _positions(self, x: Tensor) -> int:
        """For how many tokens or pixels the layer computes its outputs."""
        if self.spec.kind == "conv":
            return x.shape[0] * x.shape[-2] * x.shape[-1] // math.prod(self.spec.stride)
        return x.numel() // x.shape[-1]

    def _with_changed_output(self, x: Tensor, adapter: Adapter, strength: float) -> Tensor:
        """base(x) + strength * the adapter's change of it."""
        out = self.base(x)
        plain = out
        if has_parameter(self.base, "bias"):
            # the bias belongs to the layer, not to the weight
            bias = tensor_of(self.base, "bias")
            plain = out - (bias.view(-1, 1, 1) if self.spec.kind == "conv" else bias)
        change = adapter.output_change(x, plain, tensor_of(self.base, "weight").detach())
        return out + (change if strength == 1 else strength * change)

    def changed_weight(self, active: list[tuple[Adapter, float]] | None = None) -> Tensor:
        """The weight with all changes, float32, one adapter after the other. `active`: by default `self.active()`."""
        weight = tensor_of(self.base, "weight").detach().float()
        for adapter, strength in self.active() if active is None else active:
            weight = adapter.forward_weight(weight, strength)
        return weight

    def changed_bias(self, active: list[tuple[Adapter, float]] | None = None) -> Tensor | None:
        """The bias with all changes, float32; None if the layer has no bias and no adapter changes it."""
        total: Tensor | None = None
        for adapter, strength in self.active() if active is None else active:
            change = adapter.bias_delta()
            if change is not None:
                total = strength * change if total is None else total + strength * change
        if total is None:
            return self._base_bias() if has_parameter(self.base, "bias") else None
        return self._base_bias() + total

    def _base_bias(self) -> Tensor:
        """The base's bias in float32; 0 if it has none."""
        bias: Tensor | None = getattr(self.base, "bias", None)
        if bias is None:
            return torch.zeros((), device=tensor_of(self.base, "weight").device)
        return bias.detach().float()

    def __getattr__(self, name: str) -> Any:
        """Attributes of the layer (weight, bias, in_features ...) are the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def tensor_of(layer: nn.Module, name: str) -> Tensor:
    """A parameter of a layer, with or without adapters on it."""
    value = getattr(layer, name)
    assert isinstance(value, Tensor)
    return value


def run_norm(norm: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of a LayerNorm or GroupNorm for `x`, with another weight and bias, computed in float32."""
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x.float(), norm.num_groups, weight, bias, norm.eps).to(x.dtype)
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)


def spec_of(name: str, layer: nn.Module) -> LayerSpec | None:
    """What an adapter must know of a layer; None if the layer is of no kind that can carry one."""
    if isinstance(layer, Adapted):
        return layer.spec
    if isinstance(layer, nn.Conv2d):
        # padding can also be a word such as "same", which no layer of these models has
        padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
        return LayerSpec(
            name,
            "conv",
            tuple(layer.weight.shape),
            stride=as_pair(layer.stride),
            padding=as_pair(padding),
            dilation=as_pair(layer.dilation),
            groups=layer.groups,
            bias=has_parameter(layer, "bias"),
        )
    if isinstance(layer, nn.Linear):
        return LayerSpec(name, "linear", tuple(layer.weight.shape), bias=has_parameter(layer, "bias"))
    # a norm without elementwise_affine has no weight that could change
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm) and has_parameter(layer, "weight"):
        return LayerSpec(name, "norm", tuple(layer.weight.shape), bias=has_parameter(layer, "bias"))
    return None


def has_parameter(layer: nn.Module, name: str) -> bool:
    """Whether a layer has a weight or bias; torch declares both as always there."""
    return getattr(layer, name, None) is not None


def as_pair(value: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a convolution's stride, padding or dilation."""
    return int(value[0]), int(value[-1])

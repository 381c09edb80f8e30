"""A frozen layer with adapters on it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, LayerSpec, operate


class Adapted(nn.Module):
    """Stands in the place of `base` and adds what its adapters change.

    If all adapters are additive and have a branch, the output is base(x) + sum of strength * branch(x). Otherwise the
    weight is changed, by one adapter after the other in the order in which they were attached.
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
        place = list(self.adapters).index(adapter)
        del self.adapters[place]
        del self.strengths[place]

    def set_strength(self, adapter: Adapter, strength: float) -> None:
        self.strengths[list(self.adapters).index(adapter)] = strength

    def active(self) -> list[tuple[Adapter, float]]:
        """The adapters that take part in this pass, with their strengths."""
        pairs = zip(self.adapters, self.strengths, strict=True)
        return [(a, s) for a, s in pairs if s != 0 and isinstance(a, Adapter) and not a.skip()]

    def forward(self, x: Tensor) -> Tensor:
        active = self.active()
        if all(adapter.additive for adapter, _ in active):
            out = self.base(x)
            for adapter, strength in active:
                out = adapter.onto(out, x, strength)
            return out
        weight, bias = self.changed_weight(active), self.changed_bias(active)
        if self.spec.kind == "norm":
            return normalise(self.base, x, weight, bias)
        base = tensor_of(self.base, "weight")
        if base.dtype == torch.float32:
            return operate(self.spec, x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        # added to a weight in low precision, a small change would be rounded away
        change = None if bias is None else (bias - self._bias()).to(x.dtype)
        return self.base(x) + operate(self.spec, x, (weight - base.float()).to(x.dtype), change)

    def changed_weight(self, active: list[tuple[Adapter, float]] | None = None) -> Tensor:
        """The weight with all changes, float32, one adapter after the other."""
        weight = tensor_of(self.base, "weight").detach().float()
        for adapter, strength in self.active() if active is None else active:
            weight = adapter.passing_weight(weight, strength)
        return weight

    def changed_bias(self, active: list[tuple[Adapter, float]] | None = None) -> Tensor | None:
        """The bias with all changes, float32; None if there is neither."""
        changes = [
            strength * change
            for adapter, strength in (self.active() if active is None else active)
            if (change := adapter.bias_delta()) is not None
        ]
        if not changes and self.base._parameters.get("bias") is None:
            return None
        return self._bias() + sum(changes)

    def _bias(self) -> Tensor:
        bias = self.base._parameters.get("bias")
        return torch.zeros((), device=tensor_of(self.base, "weight").device) if bias is None else bias.detach().float()

    def __getattr__(self, name: str) -> Any:
        """Whatever a layer has (weight, bias, in_features ...) is the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def tensor_of(layer: nn.Module, name: str) -> Tensor:
    """A parameter of a layer, adapted or not."""
    value = getattr(layer, name)
    assert isinstance(value, Tensor)
    return value


def normalise(norm: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A LayerNorm or GroupNorm of x with another weight and bias, computed in float32."""
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x.float(), norm.num_groups, weight, bias, norm.eps).to(x.dtype)
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)


def spec_of(name: str, layer: nn.Module) -> LayerSpec | None:
    """What an adapter must know of a layer; None if it is of no kind that can carry one."""
    if isinstance(layer, Adapted):
        return layer.spec
    if isinstance(layer, nn.Conv2d):
        pair = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
        shape = tuple(layer.weight.shape)
        stride, dilation = _pair(layer.stride), _pair(layer.dilation)
        bias = layer.bias is not None
        return LayerSpec(name, "conv", shape, stride, _pair(pair), dilation, layer.groups, bias)
    if isinstance(layer, nn.Linear):
        return LayerSpec(name, "linear", tuple(layer.weight.shape), bias=layer.bias is not None)
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm) and isinstance(layer.weight, torch.Tensor):
        return LayerSpec(name, "norm", tuple(layer.weight.shape), bias=layer.bias is not None)
    return None


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (int(value[0]), int(value[-1]))

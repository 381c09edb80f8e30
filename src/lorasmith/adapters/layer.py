"""A frozen layer with adapters on it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, LayerSpec


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
                change = adapter.branch(x)
                out = out + (change if strength == 1 else change * strength)
            return out
        return self.operate(x, self.changed_weight(active))

    def changed_weight(self, active: list[tuple[Adapter, float]] | None = None) -> Tensor:
        """The weight with all changes, float32."""
        weight = tensor_of(self.base, "weight").detach().float()
        for adapter, strength in self.active() if active is None else active:
            weight = adapter.weight(weight, strength)
        return weight

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's operation with another weight."""
        weight, bias, spec = weight.to(x.dtype), self.base._parameters.get("bias"), self.spec
        if spec.kind == "linear":
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, spec.stride, spec.padding, spec.dilation, spec.groups)

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


def spec_of(name: str, layer: nn.Module) -> LayerSpec | None:
    """What an adapter must know of a layer; None if it is of no kind that can carry one."""
    if isinstance(layer, Adapted):
        return layer.spec
    if isinstance(layer, nn.Conv2d):
        pair = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
        shape = tuple(layer.weight.shape)
        stride, dilation = _pair(layer.stride), _pair(layer.dilation)
        return LayerSpec(name, "conv", shape, stride, _pair(pair), dilation, layer.groups)
    if isinstance(layer, nn.Linear):
        return LayerSpec(name, "linear", tuple(layer.weight.shape))
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm) and isinstance(layer.weight, torch.Tensor):
        return LayerSpec(name, "norm", tuple(layer.weight.shape))
    return None


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (int(value[0]), int(value[-1]))

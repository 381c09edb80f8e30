"""GLoRA: a low-rank change, part of which depends on the weight (arXiv 2306.07967)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import FileTensors, LayerSpec
from lorasmith.adapters.factored import FactoredConfig, alpha_of, kaiming, parameter
from lorasmith.adapters.factored_adapter import FactoredAdapter

FACTORS = ("a1", "a2", "b1", "b2")


class GLoRAAdapter(FactoredAdapter):
    """delta = scale * (W a1 a2 + b1 b2): `a1` (in, rank), `a2` (rank, in), `b1` (out, rank), `b2` (rank, in * kernel).

    In files the factors of convolutions are convolutions: `a1`, `a2`, `b1` with a kernel of 1, `b2` with the layer's.
    """

    tensor_names: ClassVar[dict[str, str]] = {name: f"{name}.weight" for name in FACTORS}
    additive = False
    factors = FACTORS
    up_factors = ("a2", "b2")
    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        super().__init__(layer, factors["a2"].shape[0], alpha)
        for name in FACTORS:
            self.register_parameter(name, parameter(factors[name].flatten(1)))

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        inside = torch.einsum("oi...,ir,rj->oj...", base.float(), self.a1, self.a2)
        beside = (self.b1 @ self.b2).view(self.layer.shape)
        return self.gain * (inside + beside)

    def batch_key(self) -> Hashable | None:
        return None if self.scalar is not None or self.drops_entries else self.scale

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        # W a1 a2 + b1 b2 is one product of twice the rank
        left = torch.cat([torch.stack(list(bases)).float() @ parameters["a1"], parameters["b1"]], 2)
        return (self.scale * left) @ torch.cat([parameters["a2"], parameters["b2"]], 1)

    def shrink(self, ratio: Tensor) -> None:
        # the change is a sum of two products, so one factor of each takes the whole ratio
        for name in self.up_factors:
            getattr(self, name).mul_(ratio)

    def tensors(self) -> dict[str, Tensor]:
        saved = super().tensors()
        if self.layer.kind == "conv":
            for name in self.tensor_names.values():
                kernel = self.layer.kernel if name == "b2.weight" else (1, 1)
                saved[name] = saved[name].view(saved[name].shape[0], -1, *kernel)
        return saved


class GLoRA(FactoredConfig):
    """Low-rank changes beside and inside the weight."""

    signatures = ("a2.weight",)
    reads = frozenset({*GLoRAAdapter.tensor_names.values(), "alpha"})
    kind: Literal["glora"] = "glora"

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> GLoRAAdapter | None:
        if not layer.takes_factors:
            return None
        rank, alpha = self.rank_and_alpha(layer)
        factors = {
            "a1": kaiming((layer.shape[1], rank), generator),
            "a2": self.zero_init(rank, layer.shape[1], generator=generator),
            "b1": kaiming((layer.shape[0], rank), generator),
            "b2": self.zero_init(rank, math.prod(layer.shape[1:]), generator=generator),
        }
        adapter = GLoRAAdapter(layer, alpha, factors)
        self.add_scalar(adapter)
        return adapter

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        names = GLoRAAdapter.tensor_names.values()
        if any(name not in tensors or tensors[name].dim() < 2 for name in names) or len(layer.shape) < 2:
            return False
        # (rows, columns) of each factor, a kernel counted among the columns
        a1, a2, b1, b2 = ((tensors[name].shape[0], math.prod(tensors[name].shape[1:])) for name in names)
        inputs = layer.shape[1]
        inside_fits = a1[0] == a2[1] == inputs and a1[1] == a2[0]
        beside_fits = b1[0] == layer.shape[0] and b2[1] == math.prod(layer.shape[1:]) and b1[1] == b2[0]
        return inside_fits and beside_fits

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> GLoRAAdapter:
        factors = {name: tensors[f"{name}.weight"] for name in FACTORS}
        return GLoRAAdapter(layer, alpha_of(tensors, factors["a2"].shape[0]), factors)

"""LoHa: the entrywise product of two low-rank matrices (FedPara, arXiv 2108.06098)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.factored import (
    FactoredAdapter,
    FactoredConfig,
    alpha_of,
    is_spatial,
    kaiming,
    normal,
    parameter,
)

NAMES = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")


class LoHaAdapter(FactoredAdapter):
    """delta = scale * (w1_a w1_b) o (w2_a w2_b); its rank may be as high as rank^2.

    `w1_a`, `w2_a`: (out, rank); `w1_b`, `w2_b`: (rank, in * kernel). Tucker: `t1`, `t2` are (rank, rank, kh, kw), the
    `a` (rank, out) and the `b` (rank, in).
    """

    tensor_names: ClassVar[dict[str, str]] = {
        name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
    }
    factors: ClassVar[tuple[str, ...]] = NAMES
    carriers = ("w1_a",)
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None
    t2: Tensor | None

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        super().__init__(layer, factors["w1_b"].shape[0], alpha)
        for name in self.tensor_names:
            self.register_parameter(name, parameter(factors.get(name)))

    def delta(self, base: Tensor | None = None) -> Tensor:
        first = _product(self.t1, self.w1_a, self.w1_b)
        second = _product(self.t2, self.w2_a, self.w2_b)
        return self.gain * (first * second).reshape(self.layer.shape)


class LoHa(FactoredConfig):
    """Entrywise products of low-rank factors, on linears and convolutions."""

    signatures: ClassVar[tuple[str, ...]] = ("hada_w1_a",)
    reads: ClassVar[frozenset[str]] = frozenset({*LoHaAdapter.tensor_names.values(), "alpha"})
    kind: Literal["loha"] = "loha"
    rank: int = 8
    tucker: bool = False
    """A small core tensor for convolutions larger than 1x1."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoHaAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, inside, *kernel = layer.shape
        factors: dict[str, Tensor] = {}
        if self.tucker and is_spatial(layer):
            a, b = (rank, out), (rank, inside)
            factors |= {t: normal((rank, rank, *kernel), 0.1, generator) for t in ("t1", "t2")}
        else:
            a, b = (out, rank), (rank, torch.Size(layer.shape[1:]).numel())
        factors |= {"w1_a": normal(a, 0.1, generator), "w1_b": normal(b, 1.0, generator)}
        factors |= {"w2_a": kaiming(a, generator) if self.scalar else torch.zeros(a)}
        factors |= {"w2_b": normal(b, 1.0, generator)}
        adapter = LoHaAdapter(layer, alpha, factors)
        self.finish(adapter)
        return adapter

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> LoHaAdapter:
        factors = {
            name: tensors[tensor_name]
            for name, tensor_name in LoHaAdapter.tensor_names.items()
            if tensor_name in tensors
        }
        return LoHaAdapter(layer, alpha_of(tensors, factors["w1_b"].shape[0]), factors)


def _product(core: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if core is None else torch.einsum("mnhw,mo,ni->oihw", core, a, b)

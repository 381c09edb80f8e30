"""LoHa: the entrywise product of two low-rank matrices (FedPara, arXiv 2108.06098)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import FileTensors, LayerSpec
from lorasmith.adapters.factored import (
    FactoredConfig,
    alpha_of,
    is_spatial,
    matrix_shape,
    normal,
    parameter,
)
from lorasmith.adapters.factored_adapter import FactoredAdapter
from lorasmith.adapters.layer_rule import MAX_RANK

FACTORS = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")


class LoHaAdapter(FactoredAdapter):
    """delta = scale * (w1_a w1_b) o (w2_a w2_b), o the entrywise product; its rank may be as high as rank^2.

    `w1_a`, `w2_a`: (out, rank); `w1_b`, `w2_b`: (rank, in * kernel). Tucker: `t1`, `t2` are (rank, rank, kh, kw), the
    `a` (rank, out) and the `b` (rank, in).
    """

    tensor_names: ClassVar[dict[str, str]] = {name: f"hada_{name}" for name in FACTORS}
    factors = FACTORS
    up_factors = ("w1_a",)
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None
    t2: Tensor | None

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        super().__init__(layer, factors["w1_b"].shape[0], alpha)
        for name in FACTORS:
            self.register_parameter(name, parameter(factors.get(name)))

    def delta(self, base: Tensor | None = None) -> Tensor:
        first = multiply(self.t1, self.w1_a, self.w1_b)
        second = multiply(self.t2, self.w2_a, self.w2_b)
        return self.gain * (first * second).reshape(self.layer.shape)

    def batch_key(self) -> Hashable | None:
        is_plain = self.t1 is None and self.t2 is None and self.scalar is None
        return self.scale if is_plain and not self.drops_entries else None

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        # the scale is a factor of the smallest matrix
        first = (parameters["w1_a"] * self.scale) @ parameters["w1_b"]
        return first * (parameters["w2_a"] @ parameters["w2_b"])


class LoHa(FactoredConfig):
    """Entrywise products of low-rank factors, on linear layers and convolutions."""

    signatures = ("hada_w1_a",)
    reads = frozenset({*LoHaAdapter.tensor_names.values(), "alpha"})
    kind: Literal["loha"] = "loha"
    rank: int = Field(default=8, ge=1, le=MAX_RANK)
    tucker: bool = False
    """A small core tensor for convolutions larger than 1x1."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoHaAdapter | None:
        if not layer.takes_factors:
            return None
        rank, alpha = self.rank_and_alpha(layer)
        # Tucker: the kernel belongs to the core, so the factors are those of a 1x1 convolution
        factors: dict[str, Tensor] = {}
        if self.tucker and is_spatial(layer):
            a_shape, b_shape = (rank, layer.shape[0]), (rank, layer.shape[1])
            core_shape = (rank, rank, *layer.kernel)
            factors["t1"] = normal(core_shape, 0.1, generator)
            factors["t2"] = normal(core_shape, 0.1, generator)
        else:
            a_shape, b_shape = (layer.shape[0], rank), (rank, math.prod(layer.shape[1:]))
        # LyCORIS' start; w2_a makes the whole product zero
        factors["w1_a"] = normal(a_shape, 0.1, generator)
        factors["w1_b"] = normal(b_shape, 1.0, generator)
        factors["w2_a"] = self.zero_init(*a_shape, generator=generator)
        factors["w2_b"] = normal(b_shape, 1.0, generator)
        adapter = LoHaAdapter(layer, alpha, factors)
        self.add_scalar(adapter)
        return adapter

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        first = matrix_shape(tensors, "hada_w1", "hada_t1")
        second = matrix_shape(tensors, "hada_w2", "hada_t2")
        # both matrices must have the layer's shape, or that of the weight with its kernel flattened
        return first == second and first in (layer.shape, (layer.shape[0], math.prod(layer.shape[1:])))

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> LoHaAdapter:
        factors = {name: tensors[f"hada_{name}"] for name in FACTORS if f"hada_{name}" in tensors}
        return LoHaAdapter(layer, alpha_of(tensors, factors["w1_b"].shape[0]), factors)


def multiply(core: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """a @ b, (out, in * kernel); with Tucker's core (rank, rank, kh, kw) between them, (out, in, kh, kw)."""
    return a @ b if core is None else torch.einsum("mnhw,mo,ni->oihw", core, a, b)

"""LoKr: a Kronecker product, of a small full matrix and a larger, often low-rank one (KronA, arXiv 2212.10650)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.factored import (
    FactoredAdapter,
    FactoredConfig,
    alpha_of,
    is_spatial,
    kaiming,
    parameter,
)

NAMES = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")


class LoKrAdapter(FactoredAdapter):
    """delta = scale * kron(w1, w2): block (i, j) of the weight is w1[i, j] * w2.

    `w1`: (l, m) or `w1_a` (l, rank) @ `w1_b` (rank, m); `w2`: (k, n[, kh, kw]), or `w2_a` (k, rank) @ `w2_b`
    (rank, n * kernel), or Tucker with `t2` (rank, rank, kh, kw), `w2_a` (rank, k), `w2_b` (rank, n); out = l k,
    in = m n. If both are full there is no rank: the scale is 1 whatever alpha says, as every consumer has it.
    """

    tensor_names: ClassVar[dict[str, str]] = {name: f"lokr_{name}" for name in NAMES}
    factors: ClassVar[tuple[str, ...]] = NAMES
    w1: Tensor | None
    w1_a: Tensor
    w1_b: Tensor
    w2: Tensor | None
    w2_a: Tensor
    w2_b: Tensor
    t2: Tensor | None

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        rank = lokr_rank(factors)
        super().__init__(layer, rank or 1, alpha if rank else 1.0)
        for name in NAMES:
            self.register_parameter(name, parameter(factors.get(name)))
        self.carriers = ("w1",) if "w1" in factors else ("w1_a",)

    def pair(self) -> tuple[Tensor, Tensor]:
        """w1 (l, m), scaled, and w2 (k, n[, kh, kw])."""
        w1 = self.w1_a @ self.w1_b if self.w1 is None else self.w1
        kernel = self.layer.shape[2:]
        if self.w2 is not None:
            w2 = self.w2
        elif self.t2 is not None:
            w2 = torch.einsum("mnhw,mk,ni->kihw", self.t2, self.w2_a, self.w2_b)
        else:
            w2 = self.w2_a @ self.w2_b
        return self.gain * w1, w2.reshape(w2.shape[0], self.layer.shape[1] // w1.shape[1], *kernel)

    def delta(self, base: Tensor | None = None) -> Tensor:
        w1, w2 = self.pair()
        return torch.einsum("lm,kn...->lkmn...", w1, w2).reshape(self.layer.shape)

    def branch(self, x: Tensor) -> Tensor:
        w1, w2 = (w.to(x.dtype) for w in self.pair())
        w1, spec = self.thin(w1), self.layer
        if spec.kind == "linear":
            h = F.linear(x.unflatten(-1, (w1.shape[1], -1)), w2)
            return (w1 @ h).flatten(-2)
        batch, m = x.shape[0], w1.shape[1]
        x = x.unflatten(1, (m, -1)).flatten(0, 1)
        h = F.conv2d(x, w2, None, spec.stride, spec.padding, spec.dilation).unflatten(0, (batch, m))
        return torch.einsum("lm,bmkhw->blkhw", w1, h).flatten(1, 2)


class LoKr(FactoredConfig):
    """Kronecker products, on linears and convolutions."""

    signatures: ClassVar[tuple[str, ...]] = ("lokr_w1", "lokr_w1_a")
    reads: ClassVar[frozenset[str]] = frozenset({*LoKrAdapter.tensor_names.values(), "alpha"})
    kind: Literal["lokr"] = "lokr"
    factor: int = Field(default=-1, ge=-1)
    """Size of the small matrix; -1 makes both as equal as they can be. A divisor, or the nearest pair below."""
    decompose_both: bool = False
    """Low-rank factors for the small matrix too, where the rank is small enough."""
    full_matrix: bool = False
    """No low-rank factors for the large one."""
    tucker: bool = False

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoKrAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, inner, *kernel = layer.shape
        (rows, k), (columns, n) = factorization(out, self.factor), factorization(inner, self.factor)
        if self.decompose_both and not self.full_matrix and rank < max(rows, columns) / 2:
            factors = {"w1_a": kaiming((rows, rank), generator), "w1_b": kaiming((rank, columns), generator)}
        else:
            factors = {"w1": kaiming((rows, columns), generator)}
        if self.full_matrix or rank >= max(k, n) / 2:
            factors["w2"] = self.last(k, n, *kernel, generator=generator)
        elif self.tucker and is_spatial(layer):
            factors["t2"] = kaiming((rank, rank, *kernel), generator)
            factors["w2_a"] = kaiming((rank, k), generator)
            factors["w2_b"] = self.last(rank, n, generator=generator)
        else:
            factors["w2_a"] = kaiming((k, rank), generator)
            factors["w2_b"] = self.last(rank, torch.Size((n, *kernel)).numel(), generator=generator)
        adapter = LoKrAdapter(layer, alpha, factors)
        self.finish(adapter)
        return adapter

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> LoKrAdapter:
        factors = {
            name: tensors[tensor_name]
            for name, tensor_name in LoKrAdapter.tensor_names.items()
            if tensor_name in tensors
        }
        return LoKrAdapter(layer, alpha_of(tensors, lokr_rank(factors) or 1), factors)


def lokr_rank(factors: Mapping[str, Tensor]) -> int | None:
    """The rank that alpha is divided by (that of w2 if it has one); None if both matrices are full."""
    name = next((name for name in ("w2_b", "w1_b") if name in factors), None)
    return None if name is None else factors[name].shape[0]


def factorization(size: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers, the smaller first, whose product is `size` (LyCORIS' rule).

    `factor`, if it divides `size`; else the divisors that are closest together with the smaller at most `factor` (-1:
    no bound).
    """
    if factor > 0 and size % factor == 0:
        small, large = sorted((factor, size // factor))
        return small, large
    bound = size if factor < 0 else factor
    small = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0 and (d == 1 or d <= bound))
    return small, size // small

"""LoKr: a Kronecker product of a small full matrix and a larger, often low-rank one (KronA, arXiv 2212.10650)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import FileTensors, LayerSpec
from lorasmith.adapters.factored import (
    FactoredConfig,
    alpha_of,
    is_spatial,
    kaiming,
    matrix_shape,
    parameter,
)
from lorasmith.adapters.factored_adapter import FactoredAdapter

FACTORS = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")


class LoKrAdapter(FactoredAdapter):
    """delta = scale * kron(w1, w2): block (i, j) of the weight is w1[i, j] * w2.

    `w1`: (l, m) or `w1_a` (l, rank) @ `w1_b` (rank, m); `w2`: (k, n[, kh, kw]), or `w2_a` (k, rank) @ `w2_b`
    (rank, n * kernel), or Tucker with `t2` (rank, rank, kh, kw), `w2_a` (rank, k), `w2_b` (rank, n); out = l k,
    in = m n. If both are full there is no rank: the scale is 1 whatever alpha is, as in every program that reads it.
    """

    tensor_names: ClassVar[dict[str, str]] = {name: f"lokr_{name}" for name in FACTORS}
    factors = FACTORS
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
        for name in FACTORS:
            self.register_parameter(name, parameter(factors.get(name)))
        self.up_factors = ("w1",) if "w1" in factors else ("w1_a",)

    def factor_pair(self) -> tuple[Tensor, Tensor]:
        """w1 (l, m), times the gain, and w2 (k, n[, kh, kw])."""
        w1 = self.w1_a @ self.w1_b if self.w1 is None else self.w1
        if self.w2 is not None:
            w2 = self.w2
        elif self.t2 is not None:
            w2 = torch.einsum("mnhw,mk,ni->kihw", self.t2, self.w2_a, self.w2_b)
        else:
            w2 = self.w2_a @ self.w2_b
        n = self.layer.shape[1] // w1.shape[1]
        return self.gain * w1, w2.reshape(w2.shape[0], n, *self.layer.kernel)

    def delta(self, base: Tensor | None = None) -> Tensor:
        w1, w2 = self.factor_pair()
        return torch.einsum("lm,kn...->lkmn...", w1, w2).reshape(self.layer.shape)

    def batch_key(self) -> Hashable | None:
        is_plain = self.t2 is None and self.scalar is None
        return self.scale if is_plain and not self.drops_entries else None

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        w1, w2 = (
            parameters[name] if name in parameters else parameters[f"{name}_a"] @ parameters[f"{name}_b"]
            for name in ("w1", "w2")
        )
        change = torch.einsum("zlm,zkn->zlkmn", self.scale * w1, w2)
        return change.reshape(len(w1), *self.layer.shape)

    def branch(self, x: Tensor) -> Tensor:
        w1, w2 = (w.to(x.dtype) for w in self.factor_pair())
        w1 = self.dropout_delta(w1)
        spec = self.layer
        m = w1.shape[1]
        if spec.kind == "linear":
            columns = x.unflatten(-1, (m, -1))
            return (w1 @ F.linear(columns, w2)).flatten(-2)
        # the m groups of input channels go through the same small convolution, as further samples of the batch
        batch = x.shape[0]
        groups = x.unflatten(1, (m, -1)).flatten(0, 1)
        out = F.conv2d(groups, w2, None, spec.stride, spec.padding, spec.dilation)
        h = out.unflatten(0, (batch, m))
        return torch.einsum("lm,bmkhw->blkhw", w1, h).flatten(1, 2)


class LoKr(FactoredConfig):
    """Kronecker products, on linear layers and convolutions."""

    signatures = ("lokr_w1", "lokr_w1_a")
    reads = frozenset({*LoKrAdapter.tensor_names.values(), "alpha"})
    kind: Literal["lokr"] = "lokr"
    rank: int = Field(default=16, ge=1)
    """A rank of half of the large matrix or more makes that matrix full; LyCORIS' 100000 is such a one."""
    factor: int = Field(default=-1, ge=-1)
    """Size of the small matrix; -1 makes both as equal as possible. A divisor, or the nearest pair below."""
    decompose_both: bool = False
    """Low-rank factors for the small matrix too, where the rank is small enough."""
    full_matrix: bool = False
    """No low-rank factors for the large matrix."""
    tucker: bool = False

    def largest_rank(self, layer: LayerSpec) -> int | None:
        return None  # a rank beyond the factors means whole factors

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoKrAdapter | None:
        if not layer.takes_factors:
            return None
        rank, alpha = self.rank_and_alpha(layer)
        out_small, out_large = factorization(layer.shape[0], self.factor)
        in_small, in_large = factorization(layer.shape[1], self.factor)
        factors: dict[str, Tensor] = {}
        # the small matrix
        if self.decompose_both and not self.full_matrix and rank < max(out_small, in_small) / 2:
            factors["w1_a"] = kaiming((out_small, rank), generator)
            factors["w1_b"] = kaiming((rank, in_small), generator)
        else:
            factors["w1"] = kaiming((out_small, in_small), generator)
        # the large matrix, which makes the change zero; factors only where they are smaller than the matrix itself
        if self.full_matrix or rank >= max(out_large, in_large) / 2:
            factors["w2"] = self.zero_init(out_large, in_large, *layer.kernel, generator=generator)
        elif self.tucker and is_spatial(layer):
            factors["t2"] = kaiming((rank, rank, *layer.kernel), generator)
            factors["w2_a"] = kaiming((rank, out_large), generator)
            factors["w2_b"] = self.zero_init(rank, in_large, generator=generator)
        else:
            factors["w2_a"] = kaiming((out_large, rank), generator)
            factors["w2_b"] = self.zero_init(rank, in_large * math.prod(layer.kernel), generator=generator)
        adapter = LoKrAdapter(layer, alpha, factors)
        self.add_scalar(adapter)
        return adapter

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        first = matrix_shape(tensors, "lokr_w1")
        second = matrix_shape(tensors, "lokr_w2", "lokr_t2")
        if first is None or second is None or len(first) != 2 or len(layer.shape) < 2 or layer.shape[1] % first[1]:
            return False
        n = layer.shape[1] // first[1]
        return layer.shape[0] == first[0] * second[0] and math.prod(second[1:]) == n * math.prod(layer.kernel)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> LoKrAdapter:
        factors = {name: tensors[f"lokr_{name}"] for name in FACTORS if f"lokr_{name}" in tensors}
        return LoKrAdapter(layer, alpha_of(tensors, lokr_rank(factors) or 1), factors)


def lokr_rank(factors: Mapping[str, Tensor]) -> int | None:
    """The rank that alpha is divided by (that of w2 if it has one); None if both matrices are full."""
    for name in ("w2_b", "w1_b"):
        if name in factors:
            return factors[name].shape[0]
    return None


def factorization(size: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers, the smaller first, whose product is `size` (LyCORIS' rule).

    `factor`, if it divides `size`; otherwise the divisors that are closest together with the smaller at most `factor`
    (-1: no bound).
    """
    if factor > 0 and size % factor == 0:
        small, large = sorted((factor, size // factor))
        return small, large
    bound = size if factor < 0 else max(factor, 1)
    small = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0 and d <= bound)
    return small, size // small

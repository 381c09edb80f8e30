"""GLoRA: a low-rank change that may also depend on the weight (arXiv 2306.07967)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.factored import FactoredAdapter, FactoredConfig, alpha_of, kaiming, parameter


class GLoRAAdapter(FactoredAdapter):
    """delta = scale * (W a1 a2 + b1 b2): `a1` (in, rank), `a2` (rank, in), `b1` (out, rank), `b2` (rank, in * kernel).

    In files the factors of convolutions are convolutions: `a1`, `a2`, `b1` with a kernel of 1, `b2` with the layer's.
    """

    words: ClassVar[dict[str, str]] = {name: f"{name}.weight" for name in ("a1", "a2", "b1", "b2")}
    additive: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = tuple(words)
    carriers = ("a2", "b2")
    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        super().__init__(layer, factors["a2"].shape[0], alpha)
        for name in self.words:
            self.register_parameter(name, parameter(factors[name].flatten(1)))

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        inner = torch.einsum("oi...,ir,rj->oj...", base.float(), self.a1, self.a2)
        return self.gain * (inner + (self.b1 @ self.b2).view(self.layer.shape))

    def shrink(self, ratio: Tensor) -> None:
        for name in self.carriers:
            getattr(self, name).mul_(ratio)

    def tensors(self) -> dict[str, Tensor]:
        found = super().tensors()
        if self.layer.kind == "conv":
            kernels = {word: self.layer.shape[2:] if word == "b2.weight" else (1, 1) for word in self.words.values()}
            found |= {word: found[word].view(found[word].shape[0], -1, *k) for word, k in kernels.items()}
        return found


class GLoRA(FactoredConfig):
    """Low-rank changes beside and inside the weight."""

    signatures: ClassVar[tuple[str, ...]] = ("a2.weight",)
    reads: ClassVar[frozenset[str]] = frozenset({*GLoRAAdapter.words.values(), "alpha"})
    kind: Literal["glora"] = "glora"

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> GLoRAAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, inner = layer.shape[0], layer.shape[1]
        factors = {
            "a1": kaiming((inner, rank), generator),
            "a2": self.last(rank, inner, generator=generator),
            "b1": kaiming((out, rank), generator),
            "b2": self.last(rank, torch.Size(layer.shape[1:]).numel(), generator=generator),
        }
        adapter = GLoRAAdapter(layer, alpha, factors)
        self.finish(adapter)
        return adapter

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> GLoRAAdapter:
        factors = {name: tensors[word] for name, word in GLoRAAdapter.words.items()}
        return GLoRAAdapter(layer, alpha_of(tensors, factors["a2"].shape[0]), factors)

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

    tensor_names: ClassVar[dict[str, str]] = {name: f"{name}.weight" for name in ("a1", "a2", "b1", "b2")}
    additive: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = tuple(tensor_names)
    carriers = ("a2", "b2")
    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor

    def __init__(self, layer: LayerSpec, alpha: float, factors: Mapping[str, Tensor]) -> None:
        super().__init__(layer, factors["a2"].shape[0], alpha)
        for name in self.tensor_names:
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
            kernels = {
                tensor_name: self.layer.shape[2:] if tensor_name == "b2.weight" else (1, 1)
                for tensor_name in self.tensor_names.values()
            }
            found |= {
                tensor_name: found[tensor_name].view(found[tensor_name].shape[0], -1, *k)
                for tensor_name, k in kernels.items()
            }
        return found


class GLoRA(FactoredConfig):
    """Low-rank changes beside and inside the weight."""

    signatures: ClassVar[tuple[str, ...]] = ("a2.weight",)
    reads: ClassVar[frozenset[str]] = frozenset({*GLoRAAdapter.tensor_names.values(), "alpha"})
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
        factors = {name: tensors[tensor_name] for name, tensor_name in GLoRAAdapter.tensor_names.items()}
        return GLoRAAdapter(layer, alpha_of(tensors, factors["a2"].shape[0]), factors)

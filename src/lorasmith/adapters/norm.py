"""Changes of the weights and biases of LayerNorms and GroupNorms."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.factored import parameter


class NormAdapter(Adapter):
    """weight + `w`, bias + `b`, both (channels,)."""

    tensor_names: ClassVar[dict[str, str]] = {"w": "w_norm", "b": "b_norm"}
    additive = False
    factors = ("w",)
    w: Tensor
    b: Tensor | None

    def __init__(self, layer: LayerSpec, w: Tensor, b: Tensor | None) -> None:
        super().__init__(layer)
        self.register_parameter("w", parameter(w))
        self.register_parameter("b", parameter(b))

    def delta(self, base: Tensor | None = None) -> Tensor:
        return self.w

    def bias_delta(self) -> Tensor | None:
        return self.b


class Norm(AdapterConfig):
    """Trains the norms themselves; few numbers, which shift colour and contrast."""

    signatures = ("w_norm", "b_norm")
    reads = frozenset({"w_norm", "b_norm", "alpha"})
    kind: Literal["norm"] = "norm"
    layers: str | tuple[str, ...] = ("unet.*norm*",)

    @property
    def on_norms(self) -> bool:
        return True

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> NormAdapter | None:
        if layer.kind != "norm":
            return None
        bias = torch.zeros(layer.shape) if layer.bias else None
        return NormAdapter(layer, torch.zeros(layer.shape), bias)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        changes = [tensors[name] for name in ("w_norm", "b_norm") if name in tensors]
        return len(layer.shape) == 1 and all(tuple(change.shape) == layer.shape for change in changes)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> NormAdapter:
        # a file can hold the bias alone
        w = tensors["w_norm"] if "w_norm" in tensors else torch.zeros(layer.shape)
        return NormAdapter(layer, w, tensors.get("b_norm"))

"""The whole change of a weight, as many numbers as the weight has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec
from lorasmith.adapters.factored import parameter


class FullAdapter(Adapter):
    """delta = `diff`, of the weight's shape; `diff_b` (out,) is the bias' change, or None."""

    tensor_names: ClassVar[dict[str, str]] = {"diff": "diff", "diff_b": "diff_b"}
    factors: ClassVar[tuple[str, ...]] = ("diff",)
    diff: Tensor
    diff_b: Tensor | None

    def __init__(self, layer: LayerSpec, diff: Tensor, diff_b: Tensor | None = None) -> None:
        super().__init__(layer)
        self.register_parameter("diff", parameter(diff.reshape(layer.shape)))
        self.register_parameter("diff_b", parameter(diff_b))

    def delta(self, base: Tensor | None = None) -> Tensor:
        return self.diff

    def bias_delta(self) -> Tensor | None:
        return self.diff_b


class Full(AdapterConfig):
    """Full fine-tuning of the chosen layers, kept as differences.

    With `bias = true`, `norms = true` and `layers = "*"` the whole UNet is trained, and with `optimizer.text_lr` the
    text encoders but for their embeddings.
    """

    signatures: ClassVar[tuple[str, ...]] = ("diff", "diff_b")
    reads: ClassVar[frozenset[str]] = frozenset({"diff", "diff_b", "alpha"})
    kind: Literal["full"] = "full"
    bias: bool = False
    """The layers' biases too."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> FullAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        bias = torch.zeros(layer.shape[0]) if self.bias and layer.bias else None
        return FullAdapter(layer, torch.zeros(layer.shape), bias)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> FullAdapter:
        diff = tensors["diff"] if "diff" in tensors else torch.zeros(layer.shape)
        return FullAdapter(layer, diff, tensors.get("diff_b"))

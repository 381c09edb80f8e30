"""The whole change of a weight, as many numbers as the weight has."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.factored import parameter


class FullAdapter(Adapter):
    """delta = `diff`, of the weight's shape; `diff_b` (out,) is the change of the bias, or None."""

    tensor_names: ClassVar[dict[str, str]] = {"diff": "diff", "diff_b": "diff_b"}
    factors = ("diff",)
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
    """Full fine-tuning of the chosen layers, saved as differences.

    With `bias = true`, `norms = true` and `layers = "*"` the whole UNet is trained, and with `optimizer.text_lr` the
    text encoders except for their embeddings.
    """

    signatures = ("diff", "diff_b")
    reads = frozenset({"diff", "diff_b", "alpha"})
    kind: Literal["full"] = "full"
    bias: bool = False
    """The layers' biases too."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> FullAdapter | None:
        if not layer.takes_factors:
            return None
        bias = torch.zeros(layer.shape[0]) if self.bias and layer.bias else None
        return FullAdapter(layer, torch.zeros(layer.shape), bias)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        diff, diff_b = tensors.get("diff"), tensors.get("diff_b")
        if diff is not None and (diff.dim() == 0 or diff.shape[0] != layer.shape[0]):
            return False
        # (out, in) is as good as (out, in, 1, 1)
        weight_fits = diff is None or diff.numel() == math.prod(layer.shape)
        return weight_fits and (diff_b is None or tuple(diff_b.shape) == layer.shape[:1])

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> FullAdapter:
        # a file can hold the bias alone
        diff = tensors["diff"] if "diff" in tensors else torch.zeros(layer.shape)
        return FullAdapter(layer, diff, tensors.get("diff_b"))

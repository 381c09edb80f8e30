"""IA3: one factor per input or output (arXiv 2205.05638)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.factored import parameter


class IA3Adapter(Adapter):
    """W' = W (1 + scales), `scales` (in,) on the input side, (out,) on the output side."""

    additive = False
    scales: Tensor

    def __init__(self, layer: LayerSpec, scales: Tensor, on_input: bool) -> None:
        super().__init__(layer)
        self.on_input = on_input
        self.register_parameter("scales", parameter(scales.flatten()))

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        ones = [1] * len(self.layer.kernel)
        shape = (1, -1, *ones) if self.on_input else (-1, 1, *ones)
        return base.float() * self.scales.view(shape)

    def shrink(self, ratio: Tensor) -> None:
        self.scales.mul_(ratio)

    def tensors(self) -> dict[str, Tensor]:
        scales = self.scales.detach()
        if self.layer.kind == "conv":
            scales = scales.view(1, -1, 1, 1)
        return {"weight": scales, "on_input": torch.tensor(float(self.on_input))}


class IA3(AdapterConfig):
    """One learned factor per input or output of a layer: very few numbers."""

    signatures = ("on_input",)
    reads = frozenset({"weight", "on_input", "alpha"})
    kind: Literal["ia3"] = "ia3"
    layers: str | tuple[str, ...] = ("*.to_k", "*.to_v", "*.k_proj", "*.v_proj", "*.ff.net.2", "*.mlp.fc2")
    on_input: tuple[str, ...] = ("*.ff.net.2", "*.mlp.fc2")
    """Layers (patterns) whose inputs are scaled; of all others the outputs. Convolutions are always scaled on the input
    side, since no program reads files that scale their outputs."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> IA3Adapter | None:
        if not layer.takes_factors:
            return None
        # no program reads files that scale the outputs of a convolution
        on_input = layer.kind == "conv" or any(fnmatchcase(layer.name, pattern) for pattern in self.on_input)
        count = layer.shape[1] if on_input else layer.shape[0]
        return IA3Adapter(layer, torch.zeros(count), on_input)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        scales, on_input = tensors.get("weight"), tensors.get("on_input")
        if scales is None or on_input is None or on_input.numel() != 1 or len(layer.shape) < 2:
            return False
        return scales.numel() == (layer.shape[1] if bool(on_input) else layer.shape[0])

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> IA3Adapter:
        return IA3Adapter(layer, tensors["weight"], bool(tensors["on_input"]))

"""LoRA: a low-rank product beside a frozen weight (arXiv 2106.09685); for convolutions, LoCon."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec


class LoRAAdapter(Adapter):
    """delta = scale * up @ down, scale = alpha / rank.

    `down`: (rank, in) or (rank, in, kh, kw); `up`: (out, rank) or (out, rank, 1, 1).
    """

    words: ClassVar[dict[str, str]] = {"down": "lora_down.weight", "up": "lora_up.weight"}

    def __init__(self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float) -> None:
        super().__init__(layer)
        self.down, self.up = nn.Parameter(down.float()), nn.Parameter(up.float())
        self._alpha = alpha

    @property
    def alpha(self) -> float:
        return self._alpha

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self._alpha / self.rank

    def delta(self, base: Tensor | None = None) -> Tensor:
        return self.scale * (self.up.flatten(1) @ self.down.flatten(1)).view(self.layer.shape)

    def branch(self, x: Tensor) -> Tensor:
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if self.layer.kind == "linear":
            return F.linear(self.drop(F.linear(x, down)), up * self.scale)
        spec = self.layer
        h = F.conv2d(x, down, None, spec.stride, spec.padding, spec.dilation)
        return F.conv2d(self.drop(h), up * self.scale)


class LoRA(AdapterConfig):
    """Low-rank adapters on linears and convolutions."""

    signature: ClassVar[str] = "lora_up.weight"
    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """The change is scaled by alpha / rank. Default: the rank, so the scale is 1."""
    conv_rank: int | None = Field(None, ge=1)
    """Of convolutions larger than 1x1. Default: the rank."""
    conv_alpha: float | None = Field(None, gt=0)
    init: Literal["kaiming", "gaussian", "orthogonal"] = "kaiming"
    """Of `down`; `up` starts at zero."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732); files store the alpha that gives the same scale."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoRAAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, *inside = layer.shape
        down = INITS[self.init](torch.empty(rank, *inside), generator)
        up = torch.zeros(out, rank, *[1] * (len(inside) - 1))
        return LoRAAdapter(layer, down, up, alpha * math.sqrt(rank) if self.rank_stabilised else alpha)

    def size(self, layer: LayerSpec) -> tuple[int, float]:
        """Rank and alpha of a layer."""
        rank, alpha = self.rank, self.alpha
        if layer.kind == "conv" and layer.shape[2:] != (1, 1):
            rank, alpha = self.conv_rank or rank, self.conv_alpha or alpha
        return rank, float(rank if alpha is None else alpha)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: dict[str, Tensor]) -> LoRAAdapter:
        down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
        rank = down.shape[0]
        alpha = float(tensors["alpha"]) if "alpha" in tensors else float(rank)
        shape = layer.shape
        return LoRAAdapter(
            layer, down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * len(shape[2:])), alpha
        )


def _kaiming(weight: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def _gaussian(weight: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1 / rank), diffusers' choice."""
    return nn.init.normal_(weight, std=1 / weight.shape[0], generator=generator)


def _orthogonal(weight: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(weight, generator=generator)


INITS = {"kaiming": _kaiming, "gaussian": _gaussian, "orthogonal": _orthogonal}

"""LoRA: a low-rank product beside a frozen weight (arXiv 2106.09685); for convolutions, LoCon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from lorasmith.adapters import inits
from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.factored import FactoredAdapter, FactoredConfig, alpha_of, is_spatial, parameter


class LoRAAdapter(FactoredAdapter):
    """delta = scale * (up @ down), scale = alpha / rank.

    `down`: (rank, in) or (rank, in, kh, kw); `up`: (out, rank) or (out, rank, 1, 1). Tucker: `down` is (rank, in, 1, 1)
    and `mid` (rank, rank, kh, kw). If the factors start as a part of the weight, that start is taken off again
    (`start_up`, `start_down`), so that the frozen weight itself never changes.
    """

    tensor_names: ClassVar[dict[str, str]] = {
        "down": "lora_down.weight",
        "mid": "lora_mid.weight",
        "up": "lora_up.weight",
    }
    factors: ClassVar[tuple[str, ...]] = ("up", "mid", "down")
    carriers = ("up",)
    down: Tensor
    up: Tensor
    mid: Tensor | None
    start_up: Tensor | None
    start_down: Tensor

    def __init__(self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float, mid: Tensor | None = None) -> None:
        super().__init__(layer, down.shape[0], alpha)
        rank, ones = down.shape[0], [1] * len(layer.shape[2:])
        inner = layer.shape[1:] if mid is None else (layer.shape[1], *ones)
        self.register_parameter("down", parameter(down.reshape(rank, *inner)))
        self.register_parameter("up", parameter(up.reshape(layer.shape[0], rank, *ones)))
        self.register_parameter("mid", parameter(mid))
        self.register_buffer("start_up", None)
        self.register_buffer("start_down", None)

    def start_from(self, up: Tensor, down: Tensor) -> None:
        """Make the present factors the zero of this adapter."""
        self.start_up, self.start_down = up.clone(), down.clone()

    def pair(self) -> tuple[Tensor, Tensor]:
        """up (out, rank, ...) and down (rank, in, ...), with the start's as further, negative ranks."""
        if self.start_up is None:
            return self.up, self.down
        return torch.cat([self.up, -self.start_up], 1), torch.cat([self.down, self.start_down])

    def delta(self, base: Tensor | None = None) -> Tensor:
        up, down = self.pair()
        if self.mid is not None:
            change = torch.einsum("om,mnhw,ni->oihw", up.flatten(1), self.mid, down.flatten(1))
        else:
            change = (up.flatten(1) @ down.flatten(1)).view(self.layer.shape)
        return self.gain * change

    def branch(self, x: Tensor) -> Tensor:
        up, down = self.factors_in(x.dtype)
        spec = self.layer
        if spec.kind == "linear":
            return F.linear(self.drop(F.linear(x, down)), up)
        if self.mid is None:
            h = F.conv2d(x, down, None, spec.stride, spec.padding, spec.dilation)
        else:
            h = F.conv2d(F.conv2d(x, down), self.mid.to(x.dtype), None, spec.stride, spec.padding, spec.dilation)
        return F.conv2d(self.drop(h), up)

    def onto(self, out: Tensor, x: Tensor, strength: float = 1.0) -> Tensor:
        if self.layer.kind != "linear":
            return super().onto(out, x, strength)
        up, down = self.factors_in(x.dtype, strength)
        h = self.drop(F.linear(x, down))
        return torch.addmm(out.flatten(0, -2), h.flatten(0, -2), up.T).view_as(out)

    def factors_in(self, dtype: torch.dtype, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """up, with the scale and a strength in it, and down, as they multiply."""
        up, down = self.pair()
        if isinstance(self.gain, Tensor) or self.gain * strength != 1:
            up = up * (self.gain * strength)
        return up.to(dtype), down.to(dtype)

    @property
    def rank(self) -> int:
        return self._rank if self.start_up is None else 2 * self._rank

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def tensors(self) -> dict[str, Tensor]:
        if self.start_up is None:
            return super().tensors()
        up, down = self.pair()
        alpha = torch.tensor(self.alpha)
        return {"lora_down.weight": down.detach(), "lora_up.weight": up.detach(), "alpha": alpha}


class LoRA(FactoredConfig):
    """Low-rank adapters on linears and convolutions."""

    signatures: ClassVar[tuple[str, ...]] = ("lora_up.weight", "lora_down.weight")
    reads: ClassVar[frozenset[str]] = frozenset({*LoRAAdapter.tensor_names.values(), "alpha"})
    kind: Literal["lora"] = "lora"
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva"] = "kaiming"
    """Of `down`, with `up` zero; `eva`: what the layers see on the first batches (arXiv 2410.07170). `pissa` and
    `olora` start as a part of the weight, which files of rank 2r take off."""
    freeze_down: bool = False
    """Train `up` alone (LoRA-FA, arXiv 2308.03303): fewer activations and optimizer states."""
    tucker: bool = False
    """Three factors for convolutions larger than 1x1."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.init == "eva" and self.tucker:
            raise ValueError('init "eva" goes not with tucker')
        if self.init in ("pissa", "olora") and (self.scalar or self.tucker or self.max_norm):
            raise ValueError(f'init "{self.init}" goes with none of scalar, tucker, max_norm')
        return self

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoRAAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, *inner = layer.shape
        if self.init in ("pissa", "olora"):
            return self._from_weight(layer, base, rank, alpha, generator)
        mid = None
        if self.tucker and is_spatial(layer):
            mid = inits.down(self.init, (rank, rank, *inner[1:]), generator)
            inner = [inner[0], 1, 1]
        down = inits.down(self.init, (rank, *inner), generator)
        adapter = LoRAAdapter(layer, down, self.last(out, rank, generator=generator), alpha, mid)
        self._freeze(adapter)
        self.finish(adapter)
        return adapter

    def _freeze(self, adapter: LoRAAdapter) -> None:
        if self.freeze_down:
            adapter.still = ("down",)
            adapter.down.requires_grad_(False)

    def _from_weight(
        self, layer: LayerSpec, base: Tensor, rank: int, alpha: float, generator: torch.Generator
    ) -> LoRAAdapter:
        scale, rank = alpha / rank, min(rank, base.flatten(1).shape[0], base.flatten(1).shape[1])
        up, down = inits.of_weight(self.init, base, rank, generator)
        adapter = LoRAAdapter(layer, down, up / scale, scale * rank)
        adapter.start_from(adapter.up.detach(), adapter.down.detach())
        self._freeze(adapter)
        return adapter

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> LoRAAdapter:
        down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
        return LoRAAdapter(layer, down, up, alpha_of(tensors, down.shape[0]), tensors.get("lora_mid.weight"))

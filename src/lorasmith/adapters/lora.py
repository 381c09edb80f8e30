"""LoRA: a low-rank product beside a frozen weight (arXiv 2106.09685); for convolutions, LoCon.

The product itself is in `lora_adapter.py`, so that the settings, which almost every config has, need no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from lorasmith.adapters import inits
from lorasmith.adapters.base import FileTensors, LayerSpec
from lorasmith.adapters.factored import FactoredConfig, alpha_of, is_spatial
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lorasmith.adapters.lora_adapter import LoRAAdapter


TENSOR_NAMES = {"down": "lora_down.weight", "mid": "lora_mid.weight", "up": "lora_up.weight"}
"""Factors, and the tensor name of each in files."""


class LoRA(FactoredConfig):
    """Low-rank adapters on linear layers and convolutions."""

    signatures = ("lora_up.weight", "lora_down.weight")
    reads = frozenset({*TENSOR_NAMES.values(), "alpha"})
    kind: Literal["lora"] = "lora"
    init: Literal["kaiming", "gaussian", "orthogonal", "svd_down", "pissa", "olora", "eva"] = "kaiming"
    """How `down` starts, with `up` zero; `svd_down`: as the main directions that the weight reads; `eva`: from the
    layers' inputs on the first batches (arXiv 2410.07170). `pissa` and `olora` start as a part of the weight, which
    files of rank 2r subtract."""
    freeze_down: bool = False
    """Train `up` alone (LoRA-FA, arXiv 2308.03303): fewer activations and optimizer states."""
    tucker: bool = False
    """Three factors for convolutions larger than 1x1."""

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.init == "eva" and self.tucker:
            raise ValueError('init "eva" cannot be combined with tucker')
        if self.init == "svd_down" and self.tucker:
            raise ValueError('init "svd_down" cannot be combined with tucker')
        if self.init in ("pissa", "olora") and (self.scalar or self.tucker or self.max_norm):
            raise ValueError(f'init "{self.init}" cannot be combined with scalar, tucker or max_norm')
        return self

    @property
    def adapter_class(self) -> type[LoRAAdapter]:
        """The module that this kind builds."""
        from lorasmith.adapters.lora_adapter import LoRAAdapter

        return LoRAAdapter

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoRAAdapter | None:
        if not layer.takes_factors:
            return None
        rank, alpha = self.rank_and_alpha(layer)
        if self.init in ("pissa", "olora"):
            adapter = self._from_weight(layer, base, rank, alpha, generator)
        else:
            mid = None
            down_shape = (rank, *layer.shape[1:])
            if self.tucker and is_spatial(layer):
                mid = inits.down(self.init, (rank, rank, *layer.kernel), generator)
                down_shape = (rank, layer.shape[1], 1, 1)
            down = inits.down(self.init, down_shape, generator)
            if self.init == "svd_down":
                down = inits.reading_directions(base, down, generator)
            up = self.zero_init(layer.shape[0], rank, generator=generator)
            adapter = self.adapter_class(layer, down, up, alpha, mid)
            self.add_scalar(adapter)
        if self.freeze_down:
            adapter.frozen = ("down",)
            adapter.down.requires_grad_(False)
        return adapter

    def _from_weight(
        self, layer: LayerSpec, base: Tensor, rank: int, alpha: float, generator: torch.Generator
    ) -> LoRAAdapter:
        """An adapter whose factors start as a part of the weight; the rank is at most the weight's smaller side."""
        # the scale stays even where the weight has fewer ranks
        scale = alpha / rank
        rank = min(rank, *base.flatten(1).shape)
        up, down = inits.of_weight(self.init, base, rank, generator)
        adapter = self.adapter_class(layer, down, up / scale, scale * rank)
        adapter.start_from(adapter.up.detach(), adapter.down.detach())
        return adapter

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        down, up, mid = (tensors.get(name) for name in ("lora_down.weight", "lora_up.weight", "lora_mid.weight"))
        if down is None or up is None or down.dim() == 0 or len(layer.shape) < 2:
            return False
        rank = down.shape[0]
        inputs = math.prod(layer.shape[1:])
        if mid is not None:
            # Tucker: the kernel belongs to the middle factor, so `down` has none
            if not layer.kernel or tuple(mid.shape) != (rank, rank, *layer.kernel):
                return False
            inputs = layer.shape[1]
        return down.numel() == rank * inputs and up.numel() == layer.shape[0] * rank

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> LoRAAdapter:
        from lorasmith.adapters.lora_adapter import LoRAAdapter

        down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
        return LoRAAdapter(layer, down, up, alpha_of(tensors, down.shape[0]), tensors.get("lora_mid.weight"))


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("adapters.lora", name)

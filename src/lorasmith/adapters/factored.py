"""What the settings of adapter kinds made of factors share, and how factors start."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lorasmith.adapters.base import AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.layer_rule import MAX_RANK
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.deferred_torch import torch
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lorasmith.adapters.factored_adapter import FactoredAdapter


class FactoredConfig(AdapterConfig):
    """Settings of adapter kinds made of factors."""

    rank: int = Field(default=16, ge=1, le=MAX_RANK)
    alpha: float | None = Field(default=None, gt=0)
    """The change is scaled by alpha / rank. Default: the rank, so the scale is 1."""
    conv_rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    """Rank of convolutions larger than 1x1. Default: `rank`."""
    conv_alpha: float | None = Field(default=None, gt=0)
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732); files store the alpha that gives the same scale."""
    up_lr: float = Field(default=1.0, gt=0)
    """Factor of the learning rate of the factor that starts at zero (LoRA+, arXiv 2402.12354); for text encoders see
    `text_up_lr`."""
    text_up_lr: float | None = Field(default=None, gt=0)
    scalar: bool = False
    """Start with all factors random and a learned scalar of 0, instead of a factor of zeros."""

    def rank_and_alpha(self, layer: LayerSpec) -> tuple[int, float]:
        """Rank and alpha of a layer, such that alpha / rank is the scale."""
        rank, alpha = self.rank, self.alpha
        if is_spatial(layer):
            # a rank of their own means that the alpha of the other layers does not apply either
            if self.conv_rank is not None:
                rank, alpha = self.conv_rank, None
            if self.conv_alpha is not None:
                alpha = self.conv_alpha
        if alpha is None:
            alpha = float(rank)
        # alpha / sqrt(rank) = (alpha * sqrt(rank)) / rank, so readers that divide by the rank get the same scale
        return rank, float(alpha) * math.sqrt(rank) if self.rank_stabilised else float(alpha)

    def largest_rank(self, layer: LayerSpec) -> int | None:
        """The largest rank that is of use on a layer: that of its weight as a matrix. None where a larger one has a
        meaning of its own."""
        return min(layer.shape[0], math.prod(layer.shape[1:])) if layer.takes_factors else None

    def up_lr_of(self, component: str) -> float:
        if is_text_encoder(component) and self.text_up_lr is not None:
            return self.text_up_lr
        return self.up_lr

    def zero_init(self, *shape: int, generator: torch.Generator) -> Tensor:
        """The factor that makes the change zero at the start; random if the learned scalar does that."""
        return kaiming(shape, generator) if self.scalar else torch.zeros(shape)

    def add_scalar(self, adapter: FactoredAdapter) -> None:
        """Give the adapter a learned scalar, if `scalar` is set."""
        if self.scalar:
            adapter.scalar = torch.nn.Parameter(torch.zeros(()))


def is_spatial(layer: LayerSpec) -> bool:
    """Whether a layer is a convolution larger than 1x1."""
    return layer.kind == "conv" and layer.kernel != (1, 1)


def kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform within 1 / sqrt(fan in), torch's default for linear layers."""
    return torch.nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Normal with mean 0."""
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def alpha_of(tensors: FileTensors, rank: int) -> float:
    """The alpha of a layer in a file; if it is absent, the rank."""
    alpha = tensors.get("alpha")
    return float(rank) if alpha is None else float(alpha)


def parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """A float32 parameter with a copy of the tensor; None stays None."""
    return None if tensor is None else torch.nn.Parameter(tensor.detach().float().clone())


def matrix_shape(tensors: FileTensors, name: str, core_name: str = "") -> tuple[int, ...] | None:
    """The shape of a matrix that a file holds whole or as factors; None if tensors are missing or do not multiply.

    Whole: the shape of the tensor `name`. Factors `{name}_a` (m, rank) and `{name}_b` (rank, n): (m, n). With Tucker's
    core (rank, rank, kh, kw) and factors (rank, m) and (rank, n): (m, n, kh, kw).
    """
    if name in tensors:
        return tuple(tensors[name].shape)
    a, b, core = tensors.get(f"{name}_a"), tensors.get(f"{name}_b"), tensors.get(core_name)
    if a is None or b is None or a.dim() != 2 or b.dim() != 2:
        return None
    if core is None:
        return (a.shape[0], b.shape[1]) if a.shape[1] == b.shape[0] else None
    if core.dim() != 4 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
        return None
    return (a.shape[1], b.shape[1], *core.shape[2:])


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("adapters.factored", name)

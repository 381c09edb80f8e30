"""What kinds made of factors share: rank, alpha, scale, a learned scalar."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec


class FactoredAdapter(Adapter):
    """A change of alpha / rank times a product. With `scalar`, also times a learned number that starts at 0."""

    carriers: tuple[str, ...] = ()
    """The factors that start as zero, one per summand; in files, which have no tensor for the scalar, they take it
    up."""

    def __init__(self, layer: LayerSpec, rank: int, alpha: float) -> None:
        super().__init__(layer)
        self._rank, self._alpha = rank, alpha
        self.scalar: nn.Parameter | None = None

    @property
    def alpha(self) -> float | None:
        return self._alpha

    @property
    def rank(self) -> int | None:
        return self._rank

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self._alpha / self._rank

    @property
    def gain(self) -> float | Tensor:
        """The scale, with the scalar."""
        return self.scale if self.scalar is None else self.scale * self.scalar

    def late(self) -> list[nn.Parameter]:
        return [getattr(self, name) for name in self.carriers]

    def shrink(self, ratio: Tensor) -> None:
        if self.scalar is None:
            super().shrink(ratio)
        else:
            self.scalar.mul_(ratio)

    def tensors(self) -> dict[str, Tensor]:
        found = super().tensors()
        if self.scalar is not None:
            found |= {
                tensor_name: found[tensor_name] * self.scalar.detach()
                for tensor_name in (self.tensor_names[name] for name in self.carriers)
            }
        return found


class FactoredConfig(AdapterConfig):
    """Settings of kinds made of factors."""

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    """The change is scaled by alpha / rank. Default: the rank, so the scale is 1."""
    conv_rank: int | None = Field(default=None, ge=1)
    """Of convolutions larger than 1x1. Default: the rank."""
    conv_alpha: float | None = Field(default=None, gt=0)
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732); files store the alpha that gives the same scale."""
    up_lr: float = Field(default=1.0, gt=0)
    """Factor of the learning rate of the factor that starts as zero (LoRA+, arXiv 2402.12354); in text encoders
    `text_up_lr`."""
    text_up_lr: float | None = Field(default=None, gt=0)
    scalar: bool = False
    """Start with all factors random and a learned scalar of 0, instead of a factor of zeros."""

    def size(self, layer: LayerSpec) -> tuple[int, float]:
        """Rank and alpha of a layer, such that alpha / rank is the scale."""
        rank, alpha = self.rank, self.alpha
        if is_spatial(layer):
            rank = self.conv_rank or rank
            alpha = self.conv_alpha or (alpha if self.conv_rank is None else None)
        alpha = float(rank if alpha is None else alpha)
        return rank, alpha * math.sqrt(rank) if self.rank_stabilised else alpha

    def late_rate(self, component: str) -> float:
        return self.up_lr if component == "unet" or self.text_up_lr is None else self.text_up_lr

    def last(self, *shape: int, generator: torch.Generator) -> Tensor:
        """The factor that makes the change zero at the start, unless a scalar does."""
        return kaiming(shape, generator) if self.scalar else torch.zeros(shape)

    def finish(self, adapter: FactoredAdapter) -> None:
        """Add the scalar, if there is to be one."""
        if self.scalar:
            adapter.scalar = nn.Parameter(torch.zeros(()))


def is_spatial(layer: LayerSpec) -> bool:
    """Whether a layer is a convolution larger than 1x1."""
    return layer.kind == "conv" and layer.shape[2:] != (1, 1)


def kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform within 1 / sqrt(fan in), torch's default for linears."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def alpha_of(tensors: Mapping[str, Tensor], rank: int) -> float:
    """The alpha of a layer in a file; absent, it is the rank."""
    alpha = tensors.get("alpha")
    return float(rank) if alpha is None else float(alpha)


def parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """A float32 parameter of a tensor's own, or None."""
    return None if tensor is None else nn.Parameter(tensor.detach().float().clone())

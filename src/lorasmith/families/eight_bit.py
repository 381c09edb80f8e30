"""Frozen layers whose weights are held in 8 bits: half of the memory of bfloat16, and a small rounding of the base.

A weight is an integer from -127 to 127 times a scale for each output channel (symmetric, per channel; LLM.int8, arXiv
2208.07339, section 2, without its outliers). It is turned back into numbers whenever a layer is used.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

SMALLEST = 16_384
"""Layers with fewer weights keep them as they are: they save nothing, and some matter much."""
LARGEST_CODE = 127


class _EightBit(nn.Module):
    """What the layers have in common. `codes` (like the weight, int8), `scales` (output channels, 1, ...)."""

    codes: Tensor
    scales: Tensor
    weight_dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The weight in the dtype of the computation."""
        return self.codes.to(self.weight_dtype) * self.scales.to(self.weight_dtype)


class EightBitLinear(_EightBit, nn.Linear): ...  # pyright: ignore[reportIncompatibleVariableOverride]


class EightBitConv2d(_EightBit, nn.Conv2d): ...  # pyright: ignore[reportIncompatibleVariableOverride]


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: EightBitLinear, nn.Conv2d: EightBitConv2d}


def store_in_8_bits(model: nn.Module) -> int:
    """Let all large frozen linears and convolutions of a model hold their weights in 8 bits; returns how many do."""
    count = 0
    for layer in model.modules():
        kind = KINDS.get(type(layer))
        weight = layer._parameters.get("weight") if kind is not None else None
        if kind is None or weight is None or weight.requires_grad or weight.numel() < SMALLEST:
            continue
        codes, scales = encode(weight.detach())
        del layer._parameters["weight"]
        layer.__class__ = kind
        stored = cast(Any, layer)
        stored.weight_dtype = weight.dtype
        layer.register_buffer("codes", codes)
        layer.register_buffer("scales", scales)
        count += 1
    return count


def encode(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (int8, of the weight's shape) and scales (float32, one for each output channel)."""
    values = weight.float()
    largest = values.flatten(1).abs().amax(1).clamp(min=1e-12)
    scales = (largest / LARGEST_CODE).view(-1, *[1] * (weight.dim() - 1))
    codes = (values / scales).round().clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8)
    return codes, scales

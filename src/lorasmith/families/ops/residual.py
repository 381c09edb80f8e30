"""A convolution's bias and the residual in one pass over channels-last memory, for CUDA.

cuDNN computes a convolution without its bias, and torch adds that in a pass of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasmith.families.ops import kernels

ROWS, COLUMNS = 32, 64


def applies(x: Tensor) -> bool:
    """Whether `add` may be used."""
    return kernels.usable(x)


def add(x: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    """x + residual + bias, written into x: (B, C, H, W), with a frozen bias (C,)."""
    return _Add.apply(x, residual, bias)  # type: ignore[return-value]


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
        out = x.contiguous(memory_format=torch.channels_last)
        if out is x:
            ctx.mark_dirty(x)
        residual = residual.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        rows = x.numel() // channels
        grid = (-(-rows // ROWS), -(-channels // COLUMNS))
        kernels.load("triton_residual").add_in_place[grid](out, residual, bias, rows, channels, ROWS, COLUMNS)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0], grads[0], None

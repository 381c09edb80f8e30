"""GEGLU in one pass for each direction, for CUDA; only its input is stored for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasmith.families.ops import kernels

ROWS, COLUMNS = 4, 512
"""Elements of one program."""


def applies(x: Tensor) -> bool:
    """Whether `geglu` may be used."""
    return kernels.usable(x)


def geglu(x: Tensor) -> Tensor:
    """a * GELU(b), where a and b are the halves of x, (..., 2 inner) (arXiv 2002.05202): (..., inner)."""
    return _Geglu.apply(x)  # type: ignore[return-value]


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        inner = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], inner)
        ctx.save_for_backward(x)
        _launch(kernels.load("triton_geglu").forward, (x, out), out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        grad = grads[0].contiguous()
        result = torch.empty_like(x)
        _launch(kernels.load("triton_geglu").backward, (grad, x, result), grad)
        return result


def _launch(kernel: Any, tensors: tuple[Tensor, ...], out: Tensor) -> None:
    inner = out.shape[-1]
    rows = out.numel() // inner
    kernel[(-(-rows // ROWS), -(-inner // COLUMNS))](*tensors, rows, inner, ROWS, COLUMNS)

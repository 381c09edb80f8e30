"""GEGLU that keeps less for the backward pass and computes it again there. The numbers are the same, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def geglu(a: Tensor, b: Tensor) -> Tensor:
    """a * GELU(b); keeps only a and b.

    Autograd would also keep GELU(b), which is four times as wide as the block's input: the largest tensor of a block.
    """
    if not torch.is_grad_enabled() or not a.requires_grad:
        return a * F.gelu(b)
    return _Geglu.apply(a, b)  # type: ignore[return-value]


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * F.gelu(b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = grads[0]
        return grad * F.gelu(b), torch.ops.aten.gelu_backward(grad * a, b)

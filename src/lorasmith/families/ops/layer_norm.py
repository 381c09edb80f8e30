"""LayerNorm of a sum, and its gradient together with that of the residual stream, for CUDA.

A transformer block adds the output of one part to the residual stream and normalises the sum for the next part. Here
the addition and the norm are one pass; in the backward pass the gradient of the norm's input is added to that of the
residual stream in the pass that computes it. Weights are frozen and get no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.families.ops import kernels

TILE = 4096
"""Elements that one program of the kernels holds, at least one row."""


def applies(norm: nn.Module, x: Tensor) -> bool:
    """Whether `add_norm` may be used in place of an addition and a call of `norm`."""
    return (
        kernels.usable(x)
        and type(norm) is nn.LayerNorm
        and norm.elementwise_affine
        and norm.bias is not None
        and not norm.weight.requires_grad
    )


def add_norm(norm: Any, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
    """x + branch, and its LayerNorm: (B, tokens, C) each. Without a branch the first is x."""
    return _AddNorm.apply(x, branch, norm.weight, norm.bias, norm.eps)  # type: ignore[return-value]


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        out = torch.empty_like(x)
        total, stats = launch_forward(x, branch, weight, bias, eps, out)
        ctx.save_for_backward(total, stats, weight)
        ctx.has_branch = branch is not None
        return total.view_as(total), out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, stats, weight = ctx.saved_tensors
        residual, grad = grads
        result = residual
        if grad is not None:
            result = launch_backward(grad.contiguous(), total, weight, stats, residual)
        return result, result if ctx.has_branch else None, None, None, None


def launch_forward(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Write LayerNorm(x + branch) into `out`, whose rows may stand further apart than its width.

    Returns the sum (x itself without a branch) and the statistics (rows, 2): mean and 1 / deviation, float32.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    total = x
    if branch is not None:
        branch = branch.contiguous()
        total = torch.empty_like(x)
    stats = torch.empty(rows, 2, device=x.device, dtype=torch.float32)
    rows_n, cols_n = tile(rows, width)
    kernels.load("triton_layer_norm").forward[(-(-rows // rows_n),)](
        x,
        x if branch is None else branch,
        weight,
        bias,
        total,
        out,
        stats,
        rows,
        width,
        out.stride(-2),
        eps,
        branch is not None,
        rows_n,
        cols_n,
    )
    return total, stats


def launch_backward(grad: Tensor, x: Tensor, weight: Tensor, stats: Tensor, residual: Tensor | None) -> Tensor:
    """The gradient of the norm's input `x`, plus `residual`. The rows of `grad` may stand further apart."""
    width = x.shape[-1]
    rows = x.numel() // width
    if residual is not None:
        residual = residual.contiguous()
    result = torch.empty_like(x)
    rows_n, cols_n = tile(rows, width)
    kernels.load("triton_layer_norm").backward[(-(-rows // rows_n),)](
        grad,
        x,
        weight,
        stats,
        x if residual is None else residual,
        result,
        rows,
        width,
        grad.stride(-2),
        residual is not None,
        rows_n,
        cols_n,
    )
    return result


def tile(rows: int, width: int) -> tuple[int, int]:
    """Rows and columns of one program: all columns, and as many rows as fit."""
    columns = 1 << (width - 1).bit_length()
    rows_n = max(1, TILE // columns)
    # small inputs are spread over more programs
    while rows_n > 1 and rows // rows_n < 256:
        rows_n //= 2
    return rows_n, columns

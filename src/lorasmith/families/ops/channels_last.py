"""GroupNorm, with or without SiLU, on images in channels-last memory, for CUDA.

cuDNN's bf16 convolutions work in channels-last memory; torch's GroupNorm does not, so a UNet pays two layout changes
for each norm. Here statistics and normalisation read and write channels-last directly, SiLU is part of the same pass,
and the backward pass recomputes everything from x and one mean and deviation for each group (weights are frozen and
get no gradient).

Both directions take three launches: sums over chunks of rows, sums of groups, and the pass over the image.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, COLUMNS = 32, 64
CHUNKS = 32
"""The largest number of chunks that the rows (pixels) of an image are summed in."""


@cache
def _kernels() -> Any:
    """The module of Triton kernels, or None where Triton is not installed: then the plain form is used."""
    try:
        from lorasmith.families.ops import triton_group_norm
    except ImportError:
        return None
    return triton_group_norm


def applies(norm: nn.Module, x: Tensor) -> bool:
    """Whether `group_norm` may be used in place of calling `norm`."""
    return (
        x.is_cuda
        and _kernels() is not None
        and type(norm) is nn.GroupNorm
        and norm.affine
        and not norm.weight.requires_grad
        and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    )


def group_norm(norm: Any, x: Tensor, silu: bool) -> Tensor:
    """norm(x), followed by SiLU if `silu`: (B, C, H, W) in channels-last memory, statistics in float32."""
    x = x.contiguous(memory_format=torch.channels_last)
    return _GroupNorm.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)  # type: ignore[return-value]


def plain(norm: nn.Module, x: Tensor, silu: bool) -> Tensor:
    """The same with torch's operations."""
    return F.silu(norm(x)) if silu else norm(x)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        sums = _launch_sums(_kernels().sums_forward, x, (x,))
        stats = _launch_groups(sums, x, groups, eps)
        out = torch.empty_like(x)
        _launch_pass(_kernels().pass_forward, x, (x, weight, bias, stats, out), groups, silu)
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.groups, ctx.silu = groups, silu
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, stats = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        sums = _launch_sums(_kernels().sums_backward, x, (x, grad, weight, bias, stats), ctx.groups, ctx.silu)
        means = _launch_groups(sums, x, ctx.groups, None)
        out = torch.empty_like(x)
        _launch_pass(_kernels().pass_backward, x, (x, grad, weight, bias, stats, means, out), ctx.groups, ctx.silu)
        return out, None, None, None, None, None


def _ceil_div(whole: int, part: int) -> int:
    return -(-whole // part)


def _launch_sums(kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], groups: int = 1, silu: bool = False) -> Tensor:
    """Two sums for each chunk of rows and each channel: (B, chunks, 2, C) float32."""
    batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    chunks = min(CHUNKS, _ceil_div(pixels, ROWS))
    steps = _ceil_div(pixels, ROWS * chunks)
    sums = torch.empty(batch, chunks, 2, channels, device=x.device, dtype=torch.float32)
    grid = (chunks, _ceil_div(channels, COLUMNS), batch)
    kernel[grid](*tensors, sums, pixels, channels, groups, steps, silu, ROWS, COLUMNS)
    return sums


def _launch_groups(sums: Tensor, x: Tensor, groups: int, eps: float | None) -> Tensor:
    """(B, groups, 2): mean and 1 / deviation of each group; with `eps` None the means of the two sums."""
    batch, chunks, _, channels = sums.shape
    out = torch.empty(batch, groups, 2, device=x.device, dtype=torch.float32)
    size = channels // groups
    count = size * x.shape[2] * x.shape[3]
    width = 1 << (size - 1).bit_length()
    _kernels().group_means[(batch * groups,)](
        sums, out, chunks, channels, groups, size, count, eps or 0.0, eps is not None, width
    )
    return out


def _launch_pass(kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], groups: int, silu: bool) -> None:
    batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    grid = (_ceil_div(pixels, ROWS), _ceil_div(channels, COLUMNS), batch)
    kernel[grid](*tensors, pixels, channels, groups, silu, ROWS, COLUMNS)

"""GroupNorm, with or without SiLU, on images in channels-last memory, for CUDA.

cuDNN's bf16 convolutions work in channels-last memory; torch's GroupNorm does not, so a UNet pays two layout changes
for each norm. Here statistics and normalisation read and write channels-last directly, SiLU is part of the same pass,
and so is what stands around the norm in a residual block: the bias and the time embedding that are added before it,
the skip connection that x is joined with, and the gradient of the path beside the norm. The backward pass recomputes
everything from x and one mean and deviation for each group (weights are frozen and get no gradient).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.families.ops import kernels

ROWS, COLUMNS = 32, 64
"""Pixels and channels of one program in a pass over the image."""
CHUNK_ROWS = 128
"""Pixels of one program that computes sums."""
SMALL = 16384
"""Up to this many elements (rounded up to powers of two), one program holds a whole group."""


def applies(norm: nn.Module, x: Tensor) -> bool:
    """Whether the functions of this file may be used in place of calling `norm`."""
    return kernels.usable(x) and type(norm) is nn.GroupNorm and norm.affine and not norm.weight.requires_grad


@dataclass(frozen=True)
class Offset:
    """What is added to x before the norm; it gets no gradient. `rows`: (B, C); `vector`: (C,)."""

    rows: Tensor
    vector: Tensor


def group_norm(norm: Any, x: Tensor, silu: bool, offset: Offset | None = None) -> Tensor:
    """norm(x), followed by SiLU if `silu`: (B, C, H, W) in channels-last memory, statistics in float32."""
    return fork_group_norm(norm, x, silu, offset=offset)[1]


def fork_group_norm(
    norm: Any, x: Tensor, silu: bool, skip: Tensor | None = None, offset: Offset | None = None
) -> tuple[Tensor, Tensor]:
    """x, joined with the channels of `skip`, and its norm.

    For blocks that add their result to their input: both gradients of x are added in the pass of the norm.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return _GroupNorm.apply(x, skip, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, offset)  # type: ignore[return-value]


def plain(norm: nn.Module, x: Tensor, silu: bool) -> Tensor:
    """The same with torch's operations."""
    return F.silu(norm(x)) if silu else norm(x)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        skip: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        silu: bool,
        offset: Offset | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.split = x.shape[1]
        ctx.has_skip = skip is not None
        if skip is not None:
            x = torch.cat([x, skip], 1).contiguous(memory_format=torch.channels_last)
        shape = _Shape(x, groups, silu, offset)
        out, stats = _forward(x, weight, bias, shape, eps)
        rows, vector = (None, None) if offset is None else (offset.rows, offset.vector)
        ctx.save_for_backward(x, weight, bias, stats, rows, vector)
        ctx.groups, ctx.silu = groups, silu
        return x.view_as(x), out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, stats, rows, vector = ctx.saved_tensors
        residual, grad = (None if g is None else g.contiguous(memory_format=torch.channels_last) for g in grads)
        nothing = [None] * 6
        if grad is None:
            if residual is None or not ctx.has_skip:
                return residual, None, *nothing
            return residual[:, : ctx.split], residual[:, ctx.split :], *nothing
        shape = _Shape(x, ctx.groups, ctx.silu, None if rows is None else Offset(rows, vector))
        dx, dskip = _backward(x, grad, residual, (weight, bias, stats), shape, ctx.split)
        return dx, dskip if ctx.has_skip else None, *nothing


class _Shape:
    """The sizes that the kernels take."""

    def __init__(self, x: Tensor, groups: int, silu: bool, offset: Offset | None) -> None:
        self.batch, self.channels = x.shape[:2]
        self.pixels = x.shape[2] * x.shape[3]
        self.groups, self.size = groups, self.channels // groups
        self.silu, self.has_offset = silu, offset is not None
        # Triton takes no absent tensors: an unused argument is x
        self.added = (x, x) if offset is None else (offset.rows, offset.vector)
        self.offset_stride = 0 if offset is None else offset.rows.stride(0)

    def small_tile(self) -> tuple[int, int] | None:
        """Pixels and channels of a group, rounded up to powers of two, if one program can hold them."""
        tile = (_power_of_two(self.pixels), _power_of_two(self.size))
        return tile if tile[0] * tile[1] <= SMALL else None

    @property
    def chunks(self) -> int:
        return _ceil_div(self.pixels, CHUNK_ROWS)

    def sums_grid(self) -> tuple[int, int, int]:
        return self.chunks, _ceil_div(self.channels, COLUMNS), self.batch

    def pass_grid(self) -> tuple[int, int, int]:
        return _ceil_div(self.pixels, ROWS), _ceil_div(self.channels, COLUMNS), self.batch

    def new_stats(self, x: Tensor) -> Tensor:
        """(B, groups, 2) float32: two numbers for each group."""
        return torch.empty(self.batch, self.groups, 2, device=x.device, dtype=torch.float32)

    def new_sums(self, x: Tensor) -> Tensor:
        """(B, chunks, 2, C) float32: two sums for each chunk of pixels and each channel."""
        return torch.empty(self.batch, self.chunks, 2, self.channels, device=x.device, dtype=torch.float32)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, shape: _Shape, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and the statistics: mean and 1 / deviation of each group."""
    triton = kernels.load("triton_group_norm")
    out = torch.empty_like(x)
    sizes = (shape.pixels, shape.channels, shape.offset_stride)
    tile = shape.small_tile()
    if tile is not None:
        stats = shape.new_stats(x)
        triton.small_forward[(shape.groups, shape.batch)](
            x,
            *shape.added,
            weight,
            bias,
            stats,
            out,
            *sizes,
            shape.size,
            eps,
            shape.silu,
            shape.has_offset,
            *tile,
            num_warps=_warps(tile),
        )
        return out, stats

    sums = shape.new_sums(x)
    triton.sums_forward[shape.sums_grid()](
        x, *shape.added, sums, *sizes, shape.has_offset, CHUNK_ROWS, COLUMNS, num_warps=8
    )
    stats = _means(sums, x, shape, eps)
    triton.pass_forward[shape.pass_grid()](
        x,
        *shape.added,
        weight,
        bias,
        stats,
        out,
        *sizes,
        shape.groups,
        shape.silu,
        shape.has_offset,
        ROWS,
        COLUMNS,
    )
    return out, stats


def _backward(
    x: Tensor,
    grad: Tensor,
    residual: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor],
    shape: _Shape,
    split: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of the first `split` channels of x and of the others, plus `residual`."""
    triton = kernels.load("triton_group_norm")
    first = _new_image(x, split)
    second = first if split == shape.channels else _new_image(x, shape.channels - split)
    sizes = (shape.pixels, shape.channels, shape.offset_stride)
    also = x if residual is None else residual
    flags = (shape.silu, shape.has_offset, residual is not None)
    tile = shape.small_tile()
    if tile is not None:
        triton.small_backward[(shape.groups, shape.batch)](
            x,
            *shape.added,
            grad,
            *saved,
            also,
            first,
            second,
            *sizes,
            shape.size,
            split,
            *flags,
            *tile,
            num_warps=_warps(tile),
        )
        return first, second

    sums = shape.new_sums(x)
    triton.sums_backward[shape.sums_grid()](
        x,
        *shape.added,
        grad,
        *saved,
        sums,
        *sizes,
        shape.groups,
        shape.silu,
        shape.has_offset,
        CHUNK_ROWS,
        COLUMNS,
        num_warps=8,
    )
    means = _means(sums, x, shape, None)
    triton.pass_backward[shape.pass_grid()](
        x,
        *shape.added,
        grad,
        *saved,
        means,
        also,
        first,
        second,
        *sizes,
        shape.groups,
        split,
        *flags,
        ROWS,
        COLUMNS,
    )
    return first, second


def _means(sums: Tensor, x: Tensor, shape: _Shape, eps: float | None) -> Tensor:
    """(B, groups, 2): mean and 1 / deviation of each group; with `eps` None the means of the two sums."""
    out = shape.new_stats(x)
    tile = (_power_of_two(shape.chunks), _power_of_two(shape.size))
    kernels.load("triton_group_norm").group_means[(shape.batch * shape.groups,)](
        sums,
        out,
        shape.chunks,
        shape.channels,
        shape.groups,
        shape.size,
        shape.size * shape.pixels,
        eps or 0.0,
        eps is not None,
        *tile,
    )
    return out


def _new_image(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _ceil_div(whole: int, part: int) -> int:
    return -(-whole // part)


def _power_of_two(value: int) -> int:
    """The next power of two."""
    return 1 << (value - 1).bit_length()


def _warps(tile: tuple[int, int]) -> int:
    return 4 if tile[0] * tile[1] <= 4096 else 8

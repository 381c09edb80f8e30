"""Convolutions with frozen weights and no adapter, with less memory, and on the CPU less time.

Autograd would keep a convolution's whole input for the gradient of a weight that is never trained; here only the shape
is kept. Where a layer has far more weights than the image has pixels (the inner levels), the convolution is computed as
a matrix product over unfolded windows: oneDNN would rearrange all weights on each call, which costs several times the
arithmetic. The numbers are the same to rounding, and no weight is copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENABLED = True
WEIGHTS_PER_PIXEL = {torch.float32: 50_000, torch.float64: 50_000}
"""From this many weights for each pixel of the output on, the matrix product is faster."""
_WEIGHTS_PER_PIXEL_OTHERS = 100_000
SMALLEST = 300_000
"""Below this many weights the call of a Python function costs more than it saves (measured on tiny models)."""


def applies(layer: nn.Module, x: Tensor) -> bool:
    """Whether `conv` may be used in place of calling `layer`."""
    return (
        ENABLED
        and type(layer) is nn.Conv2d
        and x.device.type in ("cpu", "cuda")
        and layer.groups == 1
        and layer.weight.numel() >= SMALLEST
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not layer.weight.requires_grad
        and (layer.bias is None or not layer.bias.requires_grad)
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )


def conv(layer: Any, x: Tensor, *, with_bias: bool = True) -> Tensor:
    """`layer(x)` for a frozen convolution; keeps nothing of x for the backward pass."""
    geometry = (layer.stride, layer.padding, layer.dilation)
    bias = layer.bias if with_bias else None
    if x.requires_grad and torch.is_grad_enabled():
        return _FrozenConv.apply(x, layer.weight, bias, geometry)  # type: ignore[return-value]
    return _forward(x, layer.weight, bias, geometry)


Geometry = tuple[Any, Any, Any]
"""Stride, padding, dilation: a pair each."""


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        return _forward(x, weight, bias, geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return _backward(grads[0], weight, ctx.shape, ctx.geometry), None, None, None


def _is_matrix_product_faster(weight: Tensor, pixels: int) -> bool:
    """`pixels`: of the output, over all images."""
    if weight.device.type != "cpu" or weight.shape[2:] == (1, 1):
        return False
    return weight.numel() >= WEIGHTS_PER_PIXEL.get(weight.dtype, _WEIGHTS_PER_PIXEL_OTHERS) * pixels


def _output_side(side: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation = geometry
    kernel = weight.shape[2:]
    height, width = map(_output_side, x.shape[2:], kernel, stride, padding, dilation)
    if not _is_matrix_product_faster(weight, len(x) * height * width):
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    # (C kernel, B pixels): one column for each window of each image
    windows = F.unfold(x, tuple(kernel), dilation, padding, stride).transpose(0, 1).flatten(1)
    out = weight.flatten(1) @ windows
    if bias is not None:
        out = out + bias[:, None]
    return out.unflatten(1, (len(x), height, width)).transpose(0, 1).contiguous()


def _convolution_backward(grad: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    # The input is not read, but torch brings the gradient into its memory format before anything else. An input without
    # memory of its own counts as one that is not channels-last, which costs two copies of the gradient.
    if grad.is_cuda and grad.is_contiguous(memory_format=torch.channels_last):
        unread = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    else:
        unread = grad.new_empty(1).expand(shape)
    no_groups, no_bias, not_transposed, no_output_padding = 1, None, False, [0, 0]
    return torch.ops.aten.convolution_backward(
        grad, unread, weight, no_bias, *geometry, not_transposed, no_output_padding, no_groups, [True, False, False]
    )[0]


def _backward(grad: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """The gradient of the input, which had `shape`."""
    stride, padding, dilation = geometry
    if not _is_matrix_product_faster(weight, len(grad) * math.prod(grad.shape[2:])):
        return _convolution_backward(grad, weight, shape, geometry)

    windows = weight.flatten(1).T @ grad.transpose(0, 1).flatten(1)
    windows = windows.unflatten(1, (len(grad), -1)).transpose(0, 1)
    # Windows overlap, so `fold` adds them up: low-precision terms are summed in float32.
    terms = windows.float() if windows.itemsize < 4 else windows
    folded = F.fold(terms, tuple(shape[2:]), tuple(weight.shape[2:]), dilation, padding, stride)
    return folded.to(grad.dtype)

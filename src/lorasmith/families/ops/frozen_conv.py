"""Lean forms of the operations in ops.py, for layers whose weights are frozen and carry no adapter.

A frozen convolution: autograd would keep its whole input for the gradient of a weight that is never trained; here only
the shape is kept. Where a layer has far more weights than the image has pixels (the inner levels), the convolution is
a matrix product over unfolded windows: oneDNN would lay out all weights anew on each call, which costs several times
the arithmetic. The same numbers to rounding; no copy of any weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

ENABLED = True
WEIGHTS_PER_PIXEL = {torch.float32: 50_000, torch.float64: 50_000}
"""From this many weights for each pixel of the output on, the matrix product is the faster way."""
_OTHERS = 100_000
SMALLEST = 300_000
"""Below this many weights, what a Python function costs is more than what it saves (measured on tiny models)."""


def suits(layer: nn.Module, x: Tensor) -> bool:
    """Whether `conv` may stand for calling `layer`."""
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


def conv(layer: Any, x: Tensor) -> Tensor:
    """`layer(x)` for a frozen convolution; keeps nothing of x for the backward pass."""
    if x.requires_grad and torch.is_grad_enabled():
        return _FrozenConv.apply(x, layer.weight, layer.bias, (layer.stride, layer.padding, layer.dilation))  # type: ignore[return-value]
    return _forward(x, layer.weight, layer.bias, (layer.stride, layer.padding, layer.dilation))


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


def _few_pixels(weight: Tensor, pixels: int) -> bool:
    if weight.device.type != "cpu" or weight.shape[2:] == (1, 1):
        return False
    return weight.numel() >= WEIGHTS_PER_PIXEL.get(weight.dtype, _OTHERS) * pixels


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation = geometry
    kernel = weight.shape[2:]
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    if not _few_pixels(weight, len(x) * height * width):
        return F.conv2d(x, weight, bias, stride, padding, dilation)
    windows = F.unfold(x, tuple(kernel), dilation, padding, stride).transpose(0, 1).flatten(1)
    out = weight.flatten(1) @ windows
    out = out if bias is None else out + bias[:, None]
    return out.unflatten(1, (len(x), height, width)).transpose(0, 1).contiguous()


def _backward(grad: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    stride, padding, dilation = geometry
    if not _few_pixels(weight, len(grad) * math.prod(grad.shape[2:])):
        return conv2d_input(shape, weight, grad, stride, padding, dilation)
    windows = weight.flatten(1).T @ grad.transpose(0, 1).flatten(1)
    windows = windows.unflatten(1, (len(grad), -1)).transpose(0, 1)
    exact = windows.float() if windows.itemsize < 4 else windows  # sums of low-precision terms
    return F.fold(exact, tuple(shape[2:]), tuple(weight.shape[2:]), dilation, padding, stride).to(grad.dtype)

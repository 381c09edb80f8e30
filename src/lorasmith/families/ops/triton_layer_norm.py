"""The Triton kernels of layer_norm.py. Tensors are (rows, width); rows of `out` may stand further apart."""

import triton
import triton.language as tl


@triton.jit
def forward(
    x_at,
    branch_at,
    weight_at,
    bias_at,
    sum_at,
    out_at,
    stats_at,
    rows,
    width,
    out_stride,
    eps,
    has_branch: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    row = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.arange(0, cols_n)
    there = cols < width
    inside = (row[:, None] < rows) & there[None, :]
    at = row[:, None].to(tl.int64) * width + cols[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_branch:
        x += tl.load(branch_at + at, mask=inside, other=0.0).to(tl.float32)
        # the sum is stored in low precision, and the norm is one of the stored values
        stored = x.to(sum_at.dtype.element_ty)
        tl.store(sum_at + at, stored, mask=inside)
        x = stored.to(tl.float32)

    mean = tl.sum(x, 1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    y = centred * scale[:, None] * weight[None, :] + bias[None, :]
    out = row[:, None].to(tl.int64) * out_stride + cols[None, :]
    tl.store(out_at + out, y.to(out_at.dtype.element_ty), mask=inside)
    tl.store(stats_at + row * 2, mean, mask=row < rows)
    tl.store(stats_at + row * 2 + 1, scale, mask=row < rows)


@triton.jit
def backward(
    grad_at,
    x_at,
    weight_at,
    stats_at,
    residual_at,
    out_at,
    rows,
    width,
    grad_stride,
    has_residual: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    row = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.arange(0, cols_n)
    there = cols < width
    inside = (row[:, None] < rows) & there[None, :]
    at = row[:, None].to(tl.int64) * width + cols[None, :]
    grad_place = row[:, None].to(tl.int64) * grad_stride + cols[None, :]
    mean = tl.load(stats_at + row * 2, mask=row < rows, other=0.0)
    scale = tl.load(stats_at + row * 2 + 1, mask=row < rows, other=0.0)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_at + grad_place, mask=inside, other=0.0).to(tl.float32) * weight[None, :]
    normal = tl.where(inside, (x - mean[:, None]) * scale[:, None], 0.0)
    first = tl.sum(grad, 1) / width
    second = tl.sum(grad * normal, 1) / width
    result = scale[:, None] * (grad - first[:, None] - normal * second[:, None])
    if has_residual:
        result += tl.load(residual_at + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + at, result.to(out_at.dtype.element_ty), mask=inside)

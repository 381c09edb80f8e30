"""The Triton kernels of group_norm.py. Tensors are (B, pixels, C), as channels-last images are in memory.

Where a group has few pixels, one program holds the whole group (`small_...`). Otherwise there are three launches: sums
over chunks of pixels, means of groups, and a pass over the image.

`offset` (B, C, rows `offset_stride` apart) and `vector` (C) are added to x before the norm, if `has_offset`. The
gradient of the first `split` channels goes to `out`, that of the others to `out2`.
"""

import triton
import triton.language as tl


@triton.jit
def load_offset(offset_at, vector_at, batch, offset_stride, cols, there):
    offset = tl.load(offset_at + batch * offset_stride + cols, mask=there, other=0.0).to(tl.float32)
    return offset + tl.load(vector_at + cols, mask=there, other=0.0).to(tl.float32)


@triton.jit
def inner_grad(x, grad, mean, deviation, weight, shift, silu: tl.constexpr):
    """The normalised x and the gradient that reaches it; all arguments have the shape of x, or broadcast to it."""
    normal = (x - mean) * deviation
    if silu:
        y = normal * weight + shift
        gate = tl.sigmoid(y)
        grad = grad * gate * (1 + y * (1 - gate))
    return normal, grad * weight


@triton.jit
def store_split(out_at, out2_at, split, channels, pixel, cols, values, inside):
    """Write the first `split` channels to one tensor and the others to another."""
    first = cols < split
    at = pixel[:, None].to(tl.int64) * split + cols[None, :]
    tl.store(out_at + at, values.to(out_at.dtype.element_ty), mask=inside & first[None, :])
    if split < channels:
        at = pixel[:, None].to(tl.int64) * (channels - split) + cols[None, :] - split
        tl.store(out2_at + at, values.to(out_at.dtype.element_ty), mask=inside & (cols >= split)[None, :])


@triton.jit
def small_forward(
    x_at,
    offset_at,
    vector_at,
    weight_at,
    bias_at,
    stats_at,
    out_at,
    pixels,
    channels,
    offset_stride,
    size,
    eps,
    silu: tl.constexpr,
    has_offset: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    group, batch = tl.program_id(0), tl.program_id(1)
    rows = tl.arange(0, rows_n)
    local = tl.arange(0, cols_n)
    cols = group * size + local
    there = local < size
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None].to(tl.int64) * channels + cols[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
        x = tl.where(inside, x, 0.0)

    count = pixels * size
    mean = tl.sum(tl.sum(x, 0), 0) / count
    centred = tl.where(inside, x - mean, 0.0)
    deviation = tl.rsqrt(tl.sum(tl.sum(centred * centred, 0), 0) / count + eps)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    y = centred * deviation * weight[None, :] + shift[None, :]
    if silu:
        y = y * tl.sigmoid(y)
    tl.store(out_at + at, y.to(out_at.dtype.element_ty), mask=inside)
    place = stats_at + (batch * tl.num_programs(0) + group) * 2
    tl.store(place, mean)
    tl.store(place + 1, deviation)


@triton.jit
def small_backward(
    x_at,
    offset_at,
    vector_at,
    grad_at,
    weight_at,
    bias_at,
    stats_at,
    residual_at,
    out_at,
    out2_at,
    pixels,
    channels,
    offset_stride,
    size,
    split,
    silu: tl.constexpr,
    has_offset: tl.constexpr,
    has_residual: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    group, batch = tl.program_id(0), tl.program_id(1)
    rows = tl.arange(0, rows_n)
    local = tl.arange(0, cols_n)
    cols = group * size + local
    there = local < size
    inside = (rows[:, None] < pixels) & there[None, :]
    pixel = batch * pixels + rows
    at = pixel[:, None].to(tl.int64) * channels + cols[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
    grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
    place = stats_at + (batch * tl.num_programs(0) + group) * 2
    mean = tl.load(place)
    deviation = tl.load(place + 1)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    normal, inner = inner_grad(x, grad, mean, deviation, weight, shift, silu)
    inner = tl.where(inside, inner, 0.0)

    count = pixels * size
    one = tl.sum(tl.sum(inner, 0), 0) / count
    two = tl.sum(tl.sum(inner * normal, 0), 0) / count
    result = deviation * (inner - one - normal * two)
    if has_residual:
        result += tl.load(residual_at + at, mask=inside, other=0.0).to(tl.float32)
    store_split(out_at, out2_at, split, channels, pixel, cols, result, inside)


@triton.jit
def sums_forward(
    x_at,
    offset_at,
    vector_at,
    sums_at,
    pixels,
    channels,
    offset_stride,
    has_offset: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    chunk, batch = tl.program_id(0), tl.program_id(2)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    rows = chunk * rows_n + tl.arange(0, rows_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None].to(tl.int64) * channels + cols[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
        x = tl.where(inside, x, 0.0)
    place = sums_at + (batch * tl.num_programs(0) + chunk) * 2 * channels + cols
    tl.store(place, tl.sum(x, 0), mask=there)
    tl.store(place + channels, tl.sum(x * x, 0), mask=there)


@triton.jit
def group_means(
    sums_at,
    out_at,
    chunks,
    channels,
    groups,
    size,
    count,
    eps,
    deviation: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    batch, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    rows = tl.arange(0, rows_n)
    cols = tl.arange(0, cols_n)
    inside = (rows[:, None] < chunks) & (cols[None, :] < size)
    place = sums_at + (batch * chunks + rows)[:, None] * 2 * channels + group * size + cols[None, :]
    one = tl.sum(tl.sum(tl.load(place, mask=inside, other=0.0), 0), 0) / count
    two = tl.sum(tl.sum(tl.load(place + channels, mask=inside, other=0.0), 0), 0) / count
    if deviation:
        two = tl.rsqrt(tl.maximum(two - one * one, 0.0) + eps)
    tl.store(out_at + tl.program_id(0) * 2, one)
    tl.store(out_at + tl.program_id(0) * 2 + 1, two)


@triton.jit
def pass_forward(
    x_at,
    offset_at,
    vector_at,
    weight_at,
    bias_at,
    stats_at,
    out_at,
    pixels,
    channels,
    offset_stride,
    groups,
    silu: tl.constexpr,
    has_offset: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    batch = tl.program_id(2)
    rows = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None].to(tl.int64) * channels + cols[None, :]
    stats = stats_at + (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats, mask=there, other=0.0)
    scale = tl.load(stats + 1, mask=there, other=0.0) * tl.load(weight_at + cols, mask=there, other=0.0)
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
    y = (x - mean[None, :]) * scale[None, :] + shift[None, :]
    if silu:
        y = y * tl.sigmoid(y)
    tl.store(out_at + at, y.to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def sums_backward(
    x_at,
    offset_at,
    vector_at,
    grad_at,
    weight_at,
    bias_at,
    stats_at,
    sums_at,
    pixels,
    channels,
    offset_stride,
    groups,
    silu: tl.constexpr,
    has_offset: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    chunk, batch = tl.program_id(0), tl.program_id(2)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    rows = chunk * rows_n + tl.arange(0, rows_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None].to(tl.int64) * channels + cols[None, :]
    stats = stats_at + (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats, mask=there, other=0.0)[None, :]
    deviation = tl.load(stats + 1, mask=there, other=0.0)[None, :]
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
    grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
    normal, inner = inner_grad(x, grad, mean, deviation, weight, shift, silu)
    inner = tl.where(inside, inner, 0.0)
    place = sums_at + (batch * tl.num_programs(0) + chunk) * 2 * channels + cols
    tl.store(place, tl.sum(inner, 0), mask=there)
    tl.store(place + channels, tl.sum(inner * normal, 0), mask=there)


@triton.jit
def pass_backward(
    x_at,
    offset_at,
    vector_at,
    grad_at,
    weight_at,
    bias_at,
    stats_at,
    means_at,
    residual_at,
    out_at,
    out2_at,
    pixels,
    channels,
    offset_stride,
    groups,
    split,
    silu: tl.constexpr,
    has_offset: tl.constexpr,
    has_residual: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    batch = tl.program_id(2)
    rows = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    pixel = batch * pixels + rows
    at = pixel[:, None].to(tl.int64) * channels + cols[None, :]
    place = (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats_at + place, mask=there, other=0.0)[None, :]
    deviation = tl.load(stats_at + place + 1, mask=there, other=0.0)[None, :]
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)[None, :]
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if has_offset:
        x = x + load_offset(offset_at, vector_at, batch, offset_stride, cols, there)[None, :]
    grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
    normal, inner = inner_grad(x, grad, mean, deviation, weight, shift, silu)
    one = tl.load(means_at + place, mask=there, other=0.0)[None, :]
    two = tl.load(means_at + place + 1, mask=there, other=0.0)[None, :]
    result = deviation * (inner - one - normal * two)
    if has_residual:
        result += tl.load(residual_at + at, mask=inside, other=0.0).to(tl.float32)
    store_split(out_at, out2_at, split, channels, pixel, cols, result, inside)

"""The Triton kernels of channels_last.py. Tensors are (B, pixels, C), as channels-last images are in memory."""

import triton
import triton.language as tl


@triton.jit
def sums_forward(
    x_at, sums_at, pixels, channels, groups, steps, silu: tl.constexpr, rows_n: tl.constexpr, cols_n: tl.constexpr
):
    chunk, batch = tl.program_id(0), tl.program_id(2)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    first = tl.zeros((cols_n,), tl.float32)
    second = tl.zeros((cols_n,), tl.float32)
    for i in range(steps):
        rows = (chunk * steps + i) * rows_n + tl.arange(0, rows_n)
        inside = (rows[:, None] < pixels) & (cols[None, :] < channels)
        at = (batch * pixels + rows)[:, None] * channels + cols[None, :]
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        first += tl.sum(x, 0)
        second += tl.sum(x * x, 0)
    place = sums_at + (batch * tl.num_programs(0) + chunk) * 2 * channels + cols
    tl.store(place, first, mask=cols < channels)
    tl.store(place + channels, second, mask=cols < channels)


@triton.jit
def group_means(
    sums_at, out_at, chunks, channels, groups, size, count, eps, deviation: tl.constexpr, width: tl.constexpr
):
    batch, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    cols = tl.arange(0, width)
    inside = cols < size
    first = tl.zeros((width,), tl.float32)
    second = tl.zeros((width,), tl.float32)
    for chunk in range(chunks):
        place = sums_at + (batch * chunks + chunk) * 2 * channels + group * size + cols
        first += tl.load(place, mask=inside, other=0.0)
        second += tl.load(place + channels, mask=inside, other=0.0)
    one = tl.sum(first, 0) / count
    two = tl.sum(second, 0) / count
    if deviation:
        two = tl.rsqrt(tl.maximum(two - one * one, 0.0) + eps)
    tl.store(out_at + tl.program_id(0) * 2, one)
    tl.store(out_at + tl.program_id(0) * 2 + 1, two)


@triton.jit
def pass_forward(
    x_at,
    weight_at,
    bias_at,
    stats_at,
    out_at,
    pixels,
    channels,
    groups,
    silu: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    batch = tl.program_id(2)
    rows = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None] * channels + cols[None, :]
    stats = stats_at + (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats, mask=there, other=0.0)
    scale = tl.load(stats + 1, mask=there, other=0.0) * tl.load(weight_at + cols, mask=there, other=0.0)
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    y = (x - mean[None, :]) * scale[None, :] + shift[None, :]
    if silu:
        y = y * tl.sigmoid(y)
    tl.store(out_at + at, y, mask=inside)


@triton.jit
def inner_grad(x, grad, mean, deviation, weight, shift, silu: tl.constexpr):
    """The normalised x and the gradient that reaches it."""
    normal = (x - mean[None, :]) * deviation[None, :]
    if silu:
        y = normal * weight[None, :] + shift[None, :]
        gate = tl.sigmoid(y)
        grad = grad * gate * (1 + y * (1 - gate))
    return normal, grad * weight[None, :]


@triton.jit
def sums_backward(
    x_at,
    grad_at,
    weight_at,
    bias_at,
    stats_at,
    sums_at,
    pixels,
    channels,
    groups,
    steps,
    silu: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    chunk, batch = tl.program_id(0), tl.program_id(2)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    there = cols < channels
    stats = stats_at + (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats, mask=there, other=0.0)
    deviation = tl.load(stats + 1, mask=there, other=0.0)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    first = tl.zeros((cols_n,), tl.float32)
    second = tl.zeros((cols_n,), tl.float32)
    for i in range(steps):
        rows = (chunk * steps + i) * rows_n + tl.arange(0, rows_n)
        inside = (rows[:, None] < pixels) & there[None, :]
        at = (batch * pixels + rows)[:, None] * channels + cols[None, :]
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
        normal, inner = inner_grad(x, grad, mean, deviation, weight, shift, silu)
        inner = tl.where(inside, inner, 0.0)
        first += tl.sum(inner, 0)
        second += tl.sum(inner * normal, 0)
    place = sums_at + (batch * tl.num_programs(0) + chunk) * 2 * channels + cols
    tl.store(place, first, mask=there)
    tl.store(place + channels, second, mask=there)


@triton.jit
def pass_backward(
    x_at,
    grad_at,
    weight_at,
    bias_at,
    stats_at,
    means_at,
    out_at,
    pixels,
    channels,
    groups,
    silu: tl.constexpr,
    rows_n: tl.constexpr,
    cols_n: tl.constexpr,
):
    batch = tl.program_id(2)
    rows = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    there = cols < channels
    inside = (rows[:, None] < pixels) & there[None, :]
    at = (batch * pixels + rows)[:, None] * channels + cols[None, :]
    place = (batch * groups + cols // (channels // groups)) * 2
    mean = tl.load(stats_at + place, mask=there, other=0.0)
    deviation = tl.load(stats_at + place + 1, mask=there, other=0.0)
    weight = tl.load(weight_at + cols, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(bias_at + cols, mask=there, other=0.0).to(tl.float32)
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
    normal, inner = inner_grad(x, grad, mean, deviation, weight, shift, silu)
    one = tl.load(means_at + place, mask=there, other=0.0)
    two = tl.load(means_at + place + 1, mask=there, other=0.0)
    result = deviation[None, :] * (inner - one[None, :] - normal * two[None, :])
    tl.store(out_at + at, result, mask=inside)

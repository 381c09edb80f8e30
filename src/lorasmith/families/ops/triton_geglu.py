"""The Triton kernels of geglu.py. The input is (rows, 2 inner): values and gates side by side."""

import triton
import triton.language as tl


@triton.jit
def cumulative(b):
    """The normal distribution function."""
    return 0.5 * (1.0 + tl.erf(b * 0.7071067811865476))


@triton.jit
def forward(x_at, out_at, rows, inner, rows_n: tl.constexpr, cols_n: tl.constexpr):
    row = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    inside = (row[:, None] < rows) & (cols[None, :] < inner)
    place = row[:, None].to(tl.int64) * 2 * inner + cols[None, :]
    a = tl.load(x_at + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_at + place + inner, mask=inside, other=0.0).to(tl.float32)
    out = row[:, None].to(tl.int64) * inner + cols[None, :]
    tl.store(out_at + out, (a * b * cumulative(b)).to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def backward(grad_at, x_at, out_at, rows, inner, rows_n: tl.constexpr, cols_n: tl.constexpr):
    row = tl.program_id(0) * rows_n + tl.arange(0, rows_n)
    cols = tl.program_id(1) * cols_n + tl.arange(0, cols_n)
    inside = (row[:, None] < rows) & (cols[None, :] < inner)
    place = row[:, None].to(tl.int64) * 2 * inner + cols[None, :]
    a = tl.load(x_at + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_at + place + inner, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_at + row[:, None].to(tl.int64) * inner + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    share = cumulative(b)
    density = 0.3989422804014327 * tl.exp(-0.5 * b * b)
    tl.store(out_at + place, (grad * b * share).to(out_at.dtype.element_ty), mask=inside)
    tl.store(out_at + place + inner, (grad * a * (share + b * density)).to(out_at.dtype.element_ty), mask=inside)

"""The Triton kernel of stacked_layers.py: the factors of many adapters, cast to low precision in one launch."""

import triton
import triton.language as tl


@triton.jit
def refresh(table_at, scales_at, like_at, block: tl.constexpr):
    """`table`: (products, 10) int64. Addresses of down, up and a factor, float32; addresses to write down, the scaled
    up, both in the dtype of `like`, and the scale of each rank to; then the rank, the width of down, the rows of up,
    and the distance of its rows at the target."""
    product = tl.program_id(0)
    entry = table_at + product * 10
    down_at = tl.load(entry).to(tl.pointer_type(tl.float32))
    up_at = tl.load(entry + 1).to(tl.pointer_type(tl.float32))
    factor_at = tl.load(entry + 2).to(tl.pointer_type(tl.float32))
    down_target = tl.load(entry + 3).to(tl.pointer_type(like_at.dtype.element_ty))
    up_target = tl.load(entry + 4).to(tl.pointer_type(like_at.dtype.element_ty))
    scale_target = tl.load(entry + 5).to(tl.pointer_type(tl.float32))
    rank = tl.load(entry + 6)
    width = tl.load(entry + 7)
    outputs = tl.load(entry + 8)
    stride = tl.load(entry + 9)
    scale = tl.load(scales_at + product) * tl.load(factor_at)
    at = tl.program_id(1).to(tl.int64) * block + tl.arange(0, block)

    inside = at < rank * width
    down = tl.load(down_at + at, mask=inside, other=0.0)
    tl.store(down_target + at, down.to(like_at.dtype.element_ty), mask=inside)

    inside = at < outputs * rank
    up = tl.load(up_at + at, mask=inside, other=0.0) * scale
    tl.store(up_target + at // rank * stride + at % rank, up.to(like_at.dtype.element_ty), mask=inside)

    ranks = tl.zeros((block,), dtype=tl.float32) + scale
    tl.store(scale_target + at, ranks, mask=at < rank)

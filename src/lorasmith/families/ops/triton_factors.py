"""The Triton kernel of stacked_layers.py: the factors of many adapters, cast to low precision in one launch."""

import triton
import triton.language as tl

COLUMNS = 8


@triton.jit
def refresh(table_at, scales_at, like_at, block: tl.constexpr):
    """`table`: (layers, 8) int64. Addresses of down and up, float32; addresses to write them to, in the dtype of
    `like`; then the rank, the width of down, the rows of up, and the distance of its rows at the target."""
    layer = tl.program_id(0)
    entry = table_at + layer * 8
    down_at = tl.load(entry).to(tl.pointer_type(tl.float32))
    up_at = tl.load(entry + 1).to(tl.pointer_type(tl.float32))
    down_target = tl.load(entry + 2).to(tl.pointer_type(like_at.dtype.element_ty))
    up_target = tl.load(entry + 3).to(tl.pointer_type(like_at.dtype.element_ty))
    rank = tl.load(entry + 4)
    width = tl.load(entry + 5)
    outputs = tl.load(entry + 6)
    stride = tl.load(entry + 7)
    scale = tl.load(scales_at + layer)
    at = tl.program_id(1).to(tl.int64) * block + tl.arange(0, block)

    inside = at < rank * width
    down = tl.load(down_at + at, mask=inside, other=0.0)
    tl.store(down_target + at, down.to(like_at.dtype.element_ty), mask=inside)

    inside = at < outputs * rank
    up = tl.load(up_at + at, mask=inside, other=0.0) * scale
    tl.store(up_target + at // rank * stride + at % rank, up.to(like_at.dtype.element_ty), mask=inside)

"""Regions inside attention, against the formula said anew in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families.stable_diffusion.steering import Area, Box, Regions, blend, cells, level_sizes
from lorasmith.families.stable_diffusion.unet import Attention

HEADS, LAYERS = 2, 3


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain softmax attention, head by head."""
    width = q.shape[-1] // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        heads.append((q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)).softmax(-1) @ v[..., part])
    return torch.cat(heads, -1)


def expected(out: Tensor, q: Tensor, areas: list[Area], attn: Any, size: tuple[int, int], layer: int) -> Tensor:
    """Pixel by pixel: the mean over the areas that hold it wholly."""
    height, width = size
    result = out.clone()
    for row in range(height):
        for column in range(width):
            mine = []
            for area in areas:
                left, top, right, bottom = area.box
                inside = top * height <= row and row + 1 <= bottom * height
                if inside and left * width <= column and column + 1 <= right * width:
                    mine.append(area)
            pixel = row * width + column
            parts = []
            for area in mine:
                context = area.context[:, layer] if area.context.dim() == 4 else area.context
                own = attend(q[:, pixel : pixel + 1], attn.to_k(context), attn.to_v(context))[:, 0]
                parts.append((1 - area.weight) * out[:, pixel] + area.weight * own)
            if parts:
                result[:, pixel] = torch.stack(parts).mean(0)
    return result


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (6, 4)])
def test_regions_equal_the_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attn = Attention(8, 6).double()
    areas = [
        Area((0.0, 0.0, 0.5, 1.0), torch.randn(2, 5, 6).double()),
        Area((0.25, 0.5, 1.0, 1.0), torch.randn(2, LAYERS, 7, 6).double(), 0.6),
    ]
    for level in level_sizes(size).values():
        if min(level) < 2:
            continue
        q, out = torch.randn(2, level[0] * level[1], 8).double(), torch.randn(2, level[0] * level[1], 8).double()
        found = Regions(areas, size).apply(out, q, attend, attn, 1)
        torch.testing.assert_close(found, expected(out, q, areas, attn, level, 1), rtol=1e-12, atol=1e-12)


def test_levels_are_the_unets_own() -> None:
    assert level_sizes((12, 20)) == {240: (12, 20), 60: (6, 10), 15: (3, 5), 6: (2, 3), 2: (1, 2), 1: (1, 1)}


@pytest.mark.parametrize(
    ("box", "grid", "rows", "columns"),
    [
        ((0, 0, 1, 1), (5, 7), (0, 5), (0, 7)),
        ((1 / 3, 0, 2 / 3, 0.5), (96, 96), (0, 48), (32, 64)),  # thirds end where they should
        ((0.1, 0.1, 0.4, 0.4), (8, 8), (1, 3), (1, 3)),  # only what lies wholly inside
        ((0.4, 0.4, 0.6, 0.6), (2, 2), (1, 1), (1, 1)),  # none, as in the original
        ((0.2, 0.0, 0.4, 1.0), (2, 2), (0, 2), (1, 1)),
        ((0.9, 0, 1, 1), (1, 1), (0, 1), (1, 1)),
    ],
)
def test_cells(box: Box, grid: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    assert cells(box, *grid) == (slice(*rows), slice(*columns))


def test_what_lies_outside_stays() -> None:
    plain = torch.zeros(1, 2, 4, 4)
    mixed = blend(plain, [((0, 0, 0.5, 0.5), 1.0), ((0.25, 0, 0.5, 1), 0.5)], lambda i, r, c: plain[..., r, c] + 4 + i)
    assert mixed[0, 0].tolist() == [
        [4.0, (4 + 2.5) / 2, 0.0, 0.0],
        [4.0, (4 + 2.5) / 2, 0.0, 0.0],
        [0.0, 2.5, 0.0, 0.0],
        [0.0, 2.5, 0.0, 0.0],
    ]


def test_blocks_forget_regions_even_after_an_error() -> None:
    from lorasmith.families.stable_diffusion.steering import with_regions

    class Block(nn.Module):
        regions = None

    def fail() -> None:
        with with_regions(unet, Regions([], (2, 2))):
            assert all(block.regions is not None for block in unet)
            raise RuntimeError

    unet = nn.Sequential(Block(), Block())
    with pytest.raises(RuntimeError):
        fail()
    assert all(block.regions is None for block in unet)

"""Boxes of Mix-of-Show's command line, as its code takes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lorasmith.compat.mixofshow.regions import clip_to_picture
from lorasmith.families.stable_diffusion.steering import Box, blend
from lorasmith.sampling.regions import Region, parse_regions


def original_mask(box: Box, height: int, width: int) -> np.ndarray:
    """Where the original replaces the prompt of the picture; slices end at the edge of an array by themselves."""
    left, top, right, bottom = box
    mask = np.zeros((height, width))
    rows = slice(math.ceil(top * height), math.floor(bottom * height))
    mask[rows, math.ceil(left * width) : math.floor(right * width)] += 1
    return mask


@pytest.mark.parametrize("edges", ["0, 0, 128, 40", "3, 70, 100, 78", "0, 100, 128, 200", "64, 64, 300, 300"])
@pytest.mark.parametrize("side", [16, 8, 4, 2])
def test_boxes_cover_the_originals_cells(edges: str, side: int) -> None:
    (region,) = parse_regions(f"[a <x>]-*-[]-*-[{edges}]")
    left, top, right, bottom = region["box"]
    expected = original_mask((left / 128, top / 128, right / 128, bottom / 128), side, side)

    box = Region(**clip_to_picture(region, 128, 128)).relative_box(128, 128)
    plain = torch.zeros(1, 1, side, side)
    found = blend(plain, [(box, 1.0)], lambda _, rows, columns: plain[..., rows, columns] + 1)
    assert np.array_equal(found[0, 0].numpy(), expected)


def test_a_box_outside_stays_an_error() -> None:
    (region,) = parse_regions("[a]-*-[]-*-[0, 200, 128, 300]")
    assert clip_to_picture(region, 128, 128) == region

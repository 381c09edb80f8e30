"""Buckets by kohya's rules, held to a direct reading of them, and their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasmith.core.config import validate
from lorasmith.data.buckets import Buckets
from lorasmith.data.config import DataConfig
from lorasmith.data.placement import Size

SIDES = st.integers(1, 6000)


def buckets(resolution: int | Size = 512, **settings: Any) -> Buckets:
    config = validate(DataConfig, {"images": Path("x"), "resolution": resolution, "buckets": settings})
    return Buckets.of(config.size, config.buckets)


def listed(area: int, low: int, high: int, step: int) -> list[Size]:
    """The list as kohya's notes describe it (facts of the format, in floats)."""
    found = set()
    square = int((area**0.5) // step) * step
    found.add((square, square))
    for width in range(low, high + 1, step):
        height = min(high, int((area // width) // step) * step)
        if height >= low:
            found |= {(width, height), (height, width)}
    return sorted(found)


@pytest.mark.parametrize(("resolution", "count"), [(512, 17), (1024, 41)])
def test_the_list_has_the_known_length(resolution: int, count: int) -> None:
    sizes = buckets(resolution).sizes
    assert len(sizes) == count
    assert list(sizes) == listed(resolution**2, 256, 2 * resolution, 64)


@given(SIDES, SIDES)
def test_the_nearest_shape_by_linear_ratio(width: int, height: int) -> None:
    rule = buckets(512)
    place = rule.place((width, height))
    if (width, height) in rule.sizes:
        assert place.bucket == (width, height) == place.resized
        return
    ratios = np.array([w / h for w, h in rule.sizes])
    assert place.bucket == rule.sizes[int(np.abs(ratios - width / height).argmin())]


@given(SIDES, SIDES, st.booleans(), st.sampled_from([64, 128, 512, (768, 512)]))
def test_the_crop_always_lies_in_the_resized_image(width: int, height: int, upscale: bool, resolution: Any) -> None:
    rule = buckets(resolution, upscale=upscale)
    place = rule.place((width, height))
    assert min(place.bucket) >= rule.step
    assert all(side % rule.step == 0 for side in place.bucket)
    for along in (0.0, 0.5, 1.0):
        left, top, right, bottom = place.box(along)
        assert 0 <= left < right <= place.resized[0]
        assert 0 <= top < bottom <= place.resized[1]
        assert (right - left, bottom - top) == place.bucket
    assert 0 <= place.lost < 1


def test_an_extreme_shape_as_kohya_places_it() -> None:
    assert buckets(512).place((3000, 400)).bucket == (1024, 256)


@given(st.integers(64, 500), st.integers(64, 500))
def test_without_upscaling_a_small_image_keeps_its_size(width: int, height: int) -> None:
    place = buckets(512, upscale=False).place((width, height))
    assert place.resized == (width, height)
    assert place.bucket == (width // 64 * 64, height // 64 * 64)


@given(st.integers(600, 6000), st.integers(600, 6000))
def test_without_upscaling_a_large_image_gets_the_area(width: int, height: int) -> None:
    place = buckets(512, upscale=False).place((width, height))
    assert place.resized[0] <= width
    assert place.resized[1] <= height
    if max(width, height) < 3 * min(width, height):
        assert place.bucket[0] * place.bucket[1] <= 512**2 * 1.05
        shape = place.resized[0] / place.resized[1]
        assert shape == pytest.approx(width / height, rel=0.02)


def test_a_side_is_never_zero() -> None:
    assert buckets(512, upscale=False).place((40, 300)).bucket == (64, 448)
    assert buckets(512, upscale=False).place((1, 1)).bucket == (64, 64)


def test_without_buckets_everything_has_the_resolution() -> None:
    rule = buckets((96, 64), enabled=False)
    assert {rule.place(s).bucket for s in ((10, 10), (900, 100), (96, 64))} == {(96, 64)}
    assert buckets(64, enabled=False, upscale=False).place((10, 10)).bucket == (64, 64)


def test_small_resolutions_have_small_steps() -> None:
    rule = buckets(64)
    assert rule.step == 16
    assert min(min(s) for s in rule.sizes) == 32
    assert max(max(s) for s in rule.sizes) == 128

"""Colours and face crops: the formulas again, draws by place, caches."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_family import FakeFamily
from PIL import Image

from lorasmith.core.errors import ConfigError
from lorasmith.core.progress import Lines
from lorasmith.data.batch import Batch
from lorasmith.data.dataset import Dataset, TextSettings
from lorasmith.data.lint import lint
from lorasmith.data.placement import Placement
from lorasmith.data.transforms.base import Sample
from lorasmith.data.transforms.color import Color, rotate_hue
from lorasmith.data.transforms.face_crop import FaceCrop

Build = Callable[..., Dataset]
BUCKET = Placement((64, 64), (128, 64))


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    for name, size in (("face_150_60_20_24.png", (200, 120)), ("plain.png", (200, 120))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "face.txt").write_text("garp")
    return tmp_path


def loaded(data: Dataset, *epochs: int) -> tuple[list[Batch], list[str]]:
    said: list[str] = []
    data.prepare(FakeFamily(), text=TextSettings(), progress=Lines(said.append))
    return [data.load(plan) for epoch in epochs for plan in data.epoch(epoch)], said


@pytest.mark.parametrize("degrees", [-16.0, 5.0, 120.0])
def test_hues_are_turned_as_colorsys_does(degrees: float) -> None:
    rgb = np.random.default_rng(0).random((50, 3), dtype=np.float32)
    rgb[:3] = [[0, 0, 0], [0.4, 0.4, 0.4], [1, 0, 0]]
    wanted = []
    for r, g, b in rgb.tolist():
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        wanted.append(colorsys.hsv_to_rgb((h + degrees / 360) % 1, s, v))
    np.testing.assert_allclose(rotate_hue(rgb, degrees), np.array(wanted), atol=1e-5)


def test_colours_change_as_often_and_as_much_as_they_are_to() -> None:
    grey = Sample(np.full((2, 2, 3), 128, np.uint8))
    red = Sample(np.tile(np.array([200, 50, 50], np.uint8), (2, 2, 1)))
    color = Color()
    brighter = [int(color.apply(grey, seed).pixels[0, 0, 0]) for seed in range(3000)]
    assert 255 * (128 / 255) ** 1.05 - 1 < min(brighter) < 128 < max(brighter) < 255 * (128 / 255) ** 0.95 + 1
    assert np.mean([value != 128 for value in brighter]) == pytest.approx(0.165, abs=0.04)  # greys have no hue
    changed = [color.apply(red, seed) for seed in range(3000)]
    assert np.mean([not np.array_equal(c.pixels, red.pixels) for c in changed]) == pytest.approx(0.33, abs=0.04)
    assert color.apply(red, 7) is red or np.array_equal(color.apply(red, 7).pixels, changed[7].pixels)


def test_colours_are_encoded_live_and_follow_from_the_place(noisy: Path, dataset: Build) -> None:
    settings: dict[str, Any] = {"images": noisy, "caption": "x", "transforms": [{"kind": "color", "rate": 1.0}]}
    first, said = loaded(dataset(**settings), 0, 1)
    assert any("color" in line and "anew" in line for line in said)
    assert all(batch.pixels is not None and batch.latents is None for batch in first)
    second, _ = loaded(dataset(**settings, workers=3), 0, 1)
    for a, b in zip(first, second, strict=True):
        assert a.names == b.names
        assert a.pixels is not None
        assert torch.equal(a.pixels, b.pixels)  # type: ignore[arg-type]
    same = [[b.pixels for b in first if b.names[0].endswith("plain.png")][i] for i in (0, 1)]
    assert not torch.equal(same[0], same[1])  # type: ignore[arg-type]
    kept = [{"kind": "color", "rate": 1.0, "kept": 3}]
    cached, said = loaded(dataset(**settings | {"transforms": kept}), 0)
    assert not said or not any("anew" in line for line in said)
    assert all(batch.latents is not None for batch in cached)


@pytest.mark.parametrize(("closest", "widest"), [(2.0, 4.0), (1.0, 1.0), (3.0, 50.0), (0.5, 0.6)])
@pytest.mark.parametrize("wander", [False, True])
def test_a_face_crop_is_as_wide_as_asked(closest: float, widest: float, wander: bool) -> None:
    crop = FaceCrop(closest=closest, widest=widest, wander=wander, kept=0)
    seen = set()
    for seed in range(200):
        cut = crop.cut(Path("x_700_300_80_100.png"), (1000, 800), Placement((64, 96), (120, 96)), seed)
        assert cut is not None
        scale = cut.resized[0] / 1000
        assert cut.resized[1] == pytest.approx(800 * scale, abs=1)
        whole = max(64 / 1000, 96 / 800)
        low, high = (max(whole, min(1.0, 64 / (100 * times))) for times in (widest, closest))
        assert low - 1e-3 <= scale <= high + 1e-3
        left, top, right, bottom = cut.box
        assert (right - left, bottom - top) == (64, 96)
        assert 0 <= left < right <= cut.resized[0]
        assert 0 <= top < bottom <= cut.resized[1]
        if not wander:
            near = 5 * scale + 6  # a twentieth of the face, and rounding
            middle = left + 32, top + 48
            for got, centre, side, length in zip(middle, (700, 300), (64, 96), cut.resized, strict=True):
                wanted = min(max(centre * scale, side / 2), length - side / 2)
                assert abs(got - wanted) <= near
        seen.add((cut.resized, cut.box))
        assert crop.cut(Path("x_700_300_80_100.png"), (1000, 800), Placement((64, 96), (120, 96)), seed) == cut
    assert len(seen) > 1 or (closest == widest and not wander)


def test_faces_are_cut_out_and_the_rest_is_left_alone(noisy: Path, dataset: Build) -> None:
    settings: dict[str, Any] = {"images": noisy, "transforms": ["face_crop"], "buckets": {"enabled": False}}
    data = dataset(**settings, caption="other")
    batches, _ = loaded(data, 0, 1, 2, 3)
    faces = [b for b in batches if "face" in b.names[0].rsplit("/", 1)[-1]]
    plain = [b for b in batches if b.names[0].endswith("plain.png")]
    assert {b.captions[0] for b in faces} == {"garp"}
    assert {tuple(b.crop[0].tolist()) for b in plain} == {(0, 21)}
    assert len({tuple(b.crop[0].tolist()) for b in faces}) > 1
    assert all(b.latents is not None for b in batches)  # eight crops of each, all cached
    live, _ = loaded(dataset(**settings | {"transforms": [{"kind": "face_crop", "kept": 0}]}, caption="other"), 0)
    for batch in live:
        assert batch.pixels is not None
        assert batch.pixels.shape[2:] == (64, 64)
    remarks = [p for p in lint(data) if p.kind == "transform"]
    assert [p.path.name for p in remarks] == ["plain.png"]
    record = next(r for r in data.records if r.path.stem != "plain")
    view = next(v for v in data.cacheable_views() if v.record == record)
    with Image.open(record.path) as picture:
        shrunk = picture.resize(view.crop.resized, Image.Resampling.BOX).crop(view.crop.box)
    np.testing.assert_allclose((view.read()["pixels"].permute(1, 2, 0) + 1) * 127.5, np.asarray(shrunk), atol=1e-3)


def test_a_range_in_the_wrong_order_is_said(noisy: Path, dataset: Build) -> None:
    with pytest.raises(ConfigError, match="closest"):
        dataset(noisy, transforms=[{"kind": "face_crop", "closest": 4, "widest": 2}])

"""Images on black: the original's steps again, masks that follow, and which mask counts where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_family import FakeFamily
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lorasmith.core.errors import ConfigError
from lorasmith.core.progress import Progress
from lorasmith.data.batch import Batch
from lorasmith.data.dataset import Dataset, TextSettings
from lorasmith.data.lint import lint
from lorasmith.data.placement import Placement
from lorasmith.data.transforms.letterbox import Letterbox

Build = Callable[..., Dataset]
SIDES = st.integers(20, 400)


def resized(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """torchvision's Resize(short, max_size=longest): (width, height)."""
    a, b = min(size), max(size)
    new = short, int(short * b / a)
    if new[1] > longest:
        new = int(longest * new[0] / new[1]), longest
    return new if size[0] <= size[1] else (new[1], new[0])


@given(SIDES, SIDES, st.integers(0, 99), st.sampled_from([64, 128, 512]))
def test_whole_images_are_as_large_as_the_originals(width: int, height: int, seed: int, side: int) -> None:
    cut = Letterbox(crop=0).cut(Path("a.png"), (width, height), Placement((side, side), (side, side)), seed)
    first = resized((width, height), side, 10**9)
    wanted = resized(first, side - 1, side)
    assert cut.seen is not None
    found = cut.seen[2] - cut.seen[0], cut.seen[3] - cut.seen[1]
    assert found == pytest.approx(wanted, abs=3)  # the original rounds twice
    assert cut.seen[:2] == (0, 0)
    assert cut.resized == pytest.approx(found, abs=1)
    assert cut.box[2] - cut.box[0] == cut.box[3] - cut.box[1] == side
    assert cut.box[0] <= 0
    assert cut.box[1] <= 0
    assert cut.seen[2] <= cut.box[2]
    assert cut.seen[3] <= cut.box[3]


@given(SIDES, SIDES, st.integers(0, 99))
def test_cut_images_keep_what_the_originals_keep(width: int, height: int, seed: int) -> None:
    side = 128
    cut = Letterbox(crop=1).cut(Path("a.png"), (width, height), Placement((side, side), (side, side)), seed)
    assert cut.seen is not None
    left, top, right, bottom = cut.seen
    if height > width:  # the upper part, at full width
        assert (left, top) == (0, 0)
        assert right == pytest.approx(cut.resized[0], abs=1)
        assert bottom >= right - 1
    else:
        assert (right - left, bottom - top) == (side - 1, side - 1)
        assert bottom <= cut.resized[1]
        assert right <= cut.resized[0]


@given(SIDES, SIDES, st.integers(0, 99), st.floats(0.2, 1.0), st.booleans())
def test_scaled_images(width: int, height: int, seed: int, low: float, crop: bool) -> None:
    bucket = (96, 64)
    letterbox = Letterbox(crop=float(crop), upper=False, scale=(low, 1.0))
    cut = letterbox.cut(Path("a.png"), (width, height), Placement(bucket, bucket), seed)
    assert cut.seen is not None
    size = cut.seen[2] - cut.seen[0], cut.seen[3] - cut.seen[1]
    largest = bucket if crop else (min(96, width * 64 / height), min(64, height * 96 / width))
    for got, most in zip(size, largest, strict=True):
        assert low * most - 2 <= got <= most + 1


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i, size in enumerate(((100, 200), (200, 90), (64, 64))):
        pixels = np.random.default_rng(i).integers(40, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(pixels[..., 0] * np.uint8(0) + np.uint8(255)).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def loaded(data: Dataset, *epochs: int) -> list[Batch]:
    data.prepare(FakeFamily(), text=TextSettings(), progress=Progress())
    return [data.load(plan) for epoch in epochs for plan in data.epoch(epoch)]


def test_black_is_outside_and_the_mask_follows(noisy: Path, dataset: Build) -> None:
    settings: dict[str, Any] = {"images": noisy / "images", "buckets": {"enabled": False}, "caption": "x"}
    data = dataset(**settings, transforms=["letterbox", "flip"])
    corners = set()
    for batch in loaded(data, 0, 1, 2, 3):
        assert batch.pixels is not None and batch.mask is not None and batch.subject is not None  # noqa: PT018
        assert torch.equal(batch.mask, batch.subject)
        assert batch.masked is not None
        assert batch.masked.tolist() == [1]
        black = (batch.pixels == -1).all(1, keepdim=True).float()
        assert torch.allclose(torch.nn.functional.avg_pool2d(1 - black, 8), batch.mask)
        assert 0.2 < float(batch.mask.mean()) < 1
        corners.add(tuple(black[0, 0].nonzero()[0].tolist()))
        assert (batch.crop >= 0).all()
    assert len(corners) > 1
    assert not [p for p in lint(data) if p.kind == "crop"]


def test_which_mask_counts_where(noisy: Path, dataset: Build) -> None:
    """With subject masks the loss counts in them, or everywhere in the image; the subject stays known."""
    half = np.zeros((200, 100), np.uint8)
    half[:, :50] = 255
    Image.fromarray(half).save(noisy / "masks" / "0.png")
    for weigh in (True, False):
        for letterbox in (True, False):
            changes = [{"kind": "letterbox", "kept": 4}] if letterbox else []
            subset = {"images": noisy / "images" / "0.png", "masks": noisy / "masks", "masks_weigh": weigh}
            data = dataset(subsets=[{**subset, "caption": "x"}], buckets={"enabled": False}, transforms=changes)
            for batch in loaded(data, 0, 1, 2):
                assert batch.latents is not None
                assert batch.subject is not None
                if weigh:
                    assert batch.mask is not None
                    assert torch.equal(batch.mask, batch.subject)
                elif letterbox:
                    assert batch.mask is not None
                    assert float(batch.mask.sum()) == pytest.approx(2 * float(batch.subject.sum()), rel=0.03)
                    assert (batch.mask >= batch.subject - 1e-6).all()
                else:
                    assert batch.mask is None
                    assert float(batch.subject.mean()) == 0.5


def test_scales_out_of_order_are_said(noisy: Path, dataset: Build) -> None:
    with pytest.raises(ConfigError, match="two numbers in ascending order"):
        dataset(noisy / "images", transforms=[{"kind": "letterbox", "scale": [0.5, 1.5]}])

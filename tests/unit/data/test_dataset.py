"""Exact epochs, and batches that hold what their plan says."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_family import FakeFamily
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.progress import Lines, Progress
from lorasmith.data.batch import Batch
from lorasmith.data.dataset import Dataset, TextSettings

Build = Callable[..., Dataset]
SIZES = [(64, 64), (96, 64), (64, 100), (200, 64), (64, 64), (80, 72), (30, 64)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven noisy images in several shapes, captioned by their numbers."""
    folder = tmp_path_factory.mktemp("images")
    for i, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"garp, number {i}")
    return folder


def batches(dataset: Dataset, *epochs: int) -> list[Batch]:
    return [dataset.load(plan) for epoch in epochs for plan in dataset.epoch(epoch)]


def prepared(dataset: Dataset, family: FakeFamily | None = None, text: TextSettings | None = None) -> Dataset:
    dataset.prepare(family or FakeFamily(), text=text or TextSettings(), progress=Progress())
    return dataset


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a.names, a.captions) == (b.names, b.captions)
        for name in ("pixels", "mask", "loss_weight", "original", "crop", "target"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None and y is None) or torch.equal(x, y), name
        assert a.latents is None or torch.equal(a.latents.mean, b.latents.mean)  # type: ignore[union-attr]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_size=st.integers(1, 9),
    repeats=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    accumulation=st.integers(1, 5),
    epoch=st.integers(0, 10**6),
    enabled=st.booleans(),
)
def test_an_epoch_is_exact(
    folder: Path, dataset: Build, batch_size: int, repeats: tuple[int, int], accumulation: int, epoch: int, enabled: Any
) -> None:
    sources = [{"images": folder, "repeats": repeats[0]}, {"images": folder / "3.png", "repeats": repeats[1]}]
    data = dataset(subsets=sources, batch_size=batch_size, buckets={"enabled": enabled})
    plans = data.epoch(epoch)
    views = Counter((item.record, item.occurrence) for plan in plans for item in plan.views)
    assert views == Counter((i, n) for i, record in enumerate(data.records) for n in range(record.repeats))
    assert sum(views.values()) == data.samples_per_epoch() == 7 * repeats[0] + repeats[1]
    assert all(1 <= len(plan.views) <= batch_size for plan in plans)
    for plan in plans:
        assert {data.placement(data.records[item.record]).bucket for item in plan.views} == {plan.bucket}
    small = Counter(plan.bucket for plan in plans if len(plan.views) < batch_size)
    assert max(small.values(), default=0) <= 1, "only the last batch of a bucket may be smaller"
    assert data.steps_per_epoch(accumulation) == -(-len(plans) // accumulation)


def test_the_order_follows_from_seed_and_epoch(folder: Path, dataset: Build) -> None:
    first, second = dataset(folder, batch_size=2), dataset(folder, batch_size=2)
    assert [first.epoch(i) for i in range(4)] == [second.epoch(i) for i in (0, 1, 2, 3)]
    assert second.epoch(3) == first.epoch(3)
    orders = [[item.record for plan in first.epoch(i) for item in plan.views] for i in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert dataset(folder, seed=1, batch_size=2).epoch(0) != first.epoch(0)


def test_a_cached_batch_holds_what_its_plan_says(folder: Path, dataset: Build) -> None:
    data = prepared(dataset(folder, batch_size=3, buckets={"enabled": False}))
    assert data.text_cached
    for plan, batch in zip(data.epoch(0), batches(data, 0), strict=True):
        assert batch.pixels is None
        assert batch.latents is not None
        assert batch.conditioning is not None
        for i, item in enumerate(plan.views):
            record = data.records[item.record]
            assert batch.names[i] == str(record.path)
            assert batch.captions[i] == f"garp, number {record.path.stem}"
            own = FakeFamily().encode_text([batch.captions[i]])
            assert torch.equal(batch.conditioning["context"][i], own["context"][0])
            assert batch.original[i].tolist() == [record.size[1], record.size[0]]
            assert batch.target[i].tolist() == [64, 64]
            top, left = batch.crop[i].tolist()
            with Image.open(record.path) as picture:
                pixels = np.asarray(picture)
            if min(record.size) == 64:  # not resized, so the crop can be cut by hand
                cut = pixels[top : top + 64, left : left + 64].transpose(2, 0, 1) / 127.5 - 1
                expected = FakeFamily().encode_image(torch.from_numpy(cut)[None].float())
                torch.testing.assert_close(batch.latents.mean[i], expected.mean[0])
    assert batches(data, 0)[0].to("cpu").names == batches(data, 0)[0].names


def test_pixels_equal_cached_latents(folder: Path, dataset: Build) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "transforms": ["flip", "random_crop"]}
    cached = batches(prepared(dataset(folder, **settings)), 0, 1)
    family = FakeFamily()
    plain = batches(prepared(dataset(folder, cache_latents=False, **settings), family), 0, 1)
    assert family.images == 0
    for a, b in zip(cached, plain, strict=True):
        assert a.latents is not None
        assert b.pixels is not None
        assert a.names == b.names
        assert torch.equal(a.crop, b.crop)
        torch.testing.assert_close(a.latents.mean, FakeFamily().encode_image(b.pixels).mean)


def test_worker_count_does_not_matter(folder: Path, dataset: Build) -> None:
    def run(workers: int) -> list[Batch]:
        transforms = ["flip", "random_crop", "shuffle", "tag_dropout"]
        data = dataset(folder, cache_latents=False, workers=workers, transforms=transforms, batch_size=2, repeats=2)
        return batches(prepared(data), 0, 1, 0)

    plain = run(0)
    for workers in (1, 2, 5):
        assert_same(plain, run(workers))


def test_reading_ahead_is_ahead_and_bounded(folder: Path, dataset: Build) -> None:
    data = prepared(dataset(folder, cache_latents=False, workers=2))
    plans = data.epoch(0)
    data.load(plans[0])
    assert list(data._prefetcher._pending) == plans[1:3]
    begun = data._prefetcher._pending[plans[2]]
    data.load(plans[1])
    assert data._prefetcher._pending[plans[2]] is begun, "nothing is read twice"
    data.load(plans[5])
    assert list(data._prefetcher._pending) == [plans[6], data.epoch(1)[0]]


def test_flips_come_by_position_and_about_half_the_time(folder: Path, dataset: Build) -> None:
    data = prepared(dataset(folder, transforms=["flip"]))
    flipped = 0
    for epoch in range(40):
        for plan, batch in zip(data.epoch(epoch), batches(data, epoch), strict=True):
            view = data.view(data.records[plan.views[0].record], plan.views[0])
            flipped += view.variant[0]
            assert batch.latents is not None
            expected = FakeFamily().encode_image(view.read()["pixels"][None]).mean
            torch.testing.assert_close(batch.latents.mean, expected)
    assert 100 < flipped < 180


def test_validation_by_share(folder: Path, dataset: Build, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    for i in range(7):
        shutil.copy(copied / f"{i}.png", copied / f"copy{i}.png")
    for share, count in ((0.01, 1), (0.3, 2), (0.5, 4)):
        data = dataset(copied, validation={"split": share}, caption="copy")
        held, kept = {r.digest for r in data.validation}, {r.digest for r in data.records}
        assert len(held) == len(data.validation) == count
        assert not held & kept
        assert len(data.records) == 14 - 2 * count
        moved = dataset(folder, validation={"split": share})
        assert {r.digest for r in moved.validation} == held
    several = [dataset(copied, validation={"split": 0.5, "seed": s}, seed=n) for s, n in ((1, 0), (1, 9), (2, 0))]
    first, same, other = ({r.digest for r in one.validation} for one in several)
    assert first == same != other
    trained = {name for batch in batches(prepared(data), 0, 1) for name in batch.names}
    seen = {name for plan in data.validation_plans() for name in data.load(plan).names}
    assert trained == {str(r.path) for r in data.records}
    assert seen == {str(r.path) for r in data.validation}


@pytest.mark.parametrize(
    ("settings", "held_out"),
    [
        ({}, True),
        ({"hold_out": False}, False),
        # their target is the base's output, so their loss says nothing of the subject
        ({"preserve": True}, False),
        ({"preserve": True, "hold_out": True}, True),
    ],
)
def test_images_that_are_preserved_are_not_held_out(
    folder: Path, dataset: Build, settings: dict[str, bool], held_out: bool
) -> None:
    data = dataset(folder, validation={"split": 0.5}, **settings)
    assert bool(data.validation) == held_out


def test_validation_images_are_never_trained_on(folder: Path, dataset: Build, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    shutil.copy(folder / "2.png", tmp_path / "held" / "again.png")
    changes = ["flip", "shuffle", {"kind": "template", "templates": ["a photo of {caption}"]}]
    data = dataset(folder, validation={"images": tmp_path / "held"}, caption="garp", transforms=changes)
    assert "2.png" not in [r.path.name for r in data.records]
    prepared(data)
    first, second = [[data.load(plan) for plan in data.validation_plans()] for _ in range(2)]
    assert_same(first, second)
    assert first[0].captions == ["a photo of garp"]
    with pytest.raises(ConfigError, match="none is left"):
        dataset(tmp_path / "held", validation={"split": 0.5})


def test_weights_and_masks(folder: Path, dataset: Build, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:32, :16] = 255
    mask[0, 16] = 128
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(mask).save(masks / "0.png")
    sources = [
        {"images": folder / "0.png", "masks": masks, "loss_weight": 0.5, "transforms": ["flip"]},
        {"images": folder / "4.png"},
    ]
    data = prepared(dataset(subsets=sources, batch_size=2))
    (record, _), seen = data.records, set()
    for epoch in range(12):
        (batch,) = batches(data, epoch)
        assert batch.mask is not None
        own, other = (0, 1) if batch.names[0].endswith("0.png") else (1, 0)
        assert batch.loss_weight[[own, other]].tolist() == [0.5, 1.0]
        assert torch.equal(batch.mask[other], torch.ones(1, 8, 8))
        assert batch.masked is not None
        assert [batch.masked[own], batch.masked[other]] == [1, 0]
        expected = torch.zeros(8, 8)
        expected[:4, :2] = 1
        expected[0, 2] = 128 / 255 / 64
        turned = data.view(record, data.epoch(epoch)[0].views[own]).variant == (1,)
        seen.add(turned)
        torch.testing.assert_close(batch.mask[own, 0], expected.flip(1) if turned else expected)
    assert seen == {True, False}


def test_alpha_as_mask(tmp_path: Path, dataset: Build) -> None:
    picture = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    picture.paste((9, 9, 9, 0), (0, 0, 32, 64))
    picture.save(tmp_path / "a.png")
    (batch,) = batches(prepared(dataset(tmp_path, masks="alpha")), 0)
    assert batch.mask is not None
    assert batch.mask[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_several_captions_take_turns_by_chance(folder: Path, dataset: Build, tmp_path: Path) -> None:
    shutil.copy(folder / "0.png", tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("one\ntwo\nthree")
    family = FakeFamily()
    data = prepared(dataset(tmp_path, repeats=30), family)
    counts = Counter(batch.captions[0] for batch in batches(data, 0))
    assert set(counts) == {"one", "two", "three"}
    assert family.texts == 3
    assert data.text_cached


@pytest.mark.parametrize(
    ("transforms", "cached"),
    [
        ([], True),
        ([{"kind": "caption_dropout", "rate": 0.5}], True),
        ([{"kind": "template", "templates": ["a {caption}", "the {caption}"]}, "caption_dropout"], True),
        (["shuffle"], False),
        (["caption_dropout", "tag_dropout"], False),
    ],
)
def test_texts_are_cached_where_there_are_few(folder: Path, dataset: Build, transforms: Any, cached: bool) -> None:
    data = prepared(dataset(folder, transforms=transforms))
    assert data.text_cached is cached
    for epoch in range(3):
        for batch in batches(data, epoch):
            assert (batch.conditioning is not None) is cached


def test_texts_are_not_cached_where_the_text_encoder_is_trained(folder: Path, dataset: Build) -> None:
    data, family = dataset(folder), FakeFamily()
    data.prepare(family, text=None, progress=Progress())
    assert not data.text_cached
    assert family.texts == 0
    assert batches(data, 0)[0].conditioning is None


def test_a_file_that_changed_after_the_scan_is_not_used(folder: Path, dataset: Build, tmp_path: Path) -> None:
    shutil.copy(folder / "0.png", tmp_path / "0.png")
    data = dataset(tmp_path)
    shutil.copy(folder / "1.png", tmp_path / "0.png")
    with pytest.raises(LorasmithError, match=r"0\.png: the file has changed"):
        prepared(data)
    (tmp_path / "0.png").unlink()
    with pytest.raises(LorasmithError, match="cannot be read any more"):
        prepared(data)


def test_latents_that_are_not_finite_are_refused(folder: Path, dataset: Build, monkeypatch: Any) -> None:
    from lorasmith.families.base import LatentDistribution

    monkeypatch.setattr(
        FakeFamily, "encode_image", lambda self, x: LatentDistribution(torch.full((1, 4, 8, 8), torch.nan))
    )
    with pytest.raises(LorasmithError, match=r"0\.png.*not finite"):
        prepared(dataset(folder / "0.png"))


def test_left_out_images_are_said(folder: Path, dataset: Build, tmp_path: Path) -> None:
    shutil.copy(folder / "0.png", tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"")
    said: list[str] = []
    dataset(tmp_path, skip_bad_images=True).prepare(FakeFamily(), text=None, progress=Lines(said.append))
    assert len(said) == 1
    assert "1.png" in said[0]


def test_the_fingerprint(folder: Path, dataset: Build, tmp_path: Path) -> None:
    plain = dataset(folder).fingerprint()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert dataset(moved, workers=3, cache_latents=False).fingerprint() == plain
    changes: list[dict[str, Any]] = [
        {"resolution": 128},
        {"batch_size": 2},
        {"repeats": 2},
        {"transforms": ["flip"]},
        {"subsets": [{"images": folder, "loss_weight": 0.5}]},
        {"subsets": [{"images": folder, "transforms": ["flip"]}]},
        {"buckets": {"upscale": False}},
        {"validation": {"split": 0.2}},
        {"masks": "alpha"},
    ]
    found = {plain, dataset(folder, seed=1).fingerprint()}
    for change in changes:
        found.add(dataset(None if "subsets" in change else folder, **change).fingerprint())
    (moved / "0.txt").write_text("something else")
    found.add(dataset(moved).fingerprint())
    shutil.copy(folder / "1.png", moved / "0.png")
    found.add(dataset(moved).fingerprint())
    assert len(found) == len(changes) + 4


def test_the_summary(folder: Path, dataset: Build) -> None:
    data = prepared(dataset(folder, repeats=2))
    summary = data.summary()
    assert (summary["images"], summary["repeats"], summary["validation"]) == (7, 14, 0)
    assert sum(bucket["images"] for bucket in summary["buckets"]) == 7
    assert summary["captions"] == {"with": 7, "mean_words": 3.0}
    assert summary["cache"]["latents"] == {"found": 0, "made": 7}


def test_captions_of_a_step_are_its_own_cached_or_not(folder: Path, dataset: Build) -> None:
    """Captions that change in the course of a run: the batch has the condition of the caption that it names."""
    warmup = {"kind": "tag_warmup", "until": 0.5, "start": 1}
    data = prepared(dataset(folder, transforms=[warmup, {"kind": "caption_dropout", "every_epochs": 2}]))
    data.steps = 20
    assert data.text_cached
    for epoch, step in ((0, 0), (0, 9), (0, 10), (1, 19)):
        plan = data.epoch(epoch)[0]
        batch = data.load(plan, step)
        number = data.records[plan.views[0].record].path.stem
        whole = "garp" if step < 10 else f"garp, number {number}"
        assert batch.captions[0] in (("",) if epoch else ("", whole))
        assert batch.conditioning is not None
        assert torch.equal(batch.conditioning["context"][:1], FakeFamily().encode_text([batch.captions[0]])["context"])

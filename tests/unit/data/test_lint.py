"""What is pointed out about images, and what is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lorasmith.data.dataset import Dataset
from lorasmith.data.lint import lint

Build = Callable[..., Dataset]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Three photo-like images with good captions."""
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(3):
        coarse = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a photo of Garp, {i}")
    return folder


def kinds(data: Dataset, *trigger: str) -> list[tuple[str, str]]:
    return [(p.path.name, p.kind) for p in lint(data, trigger)]


def test_good_images_give_nothing(good: Path, dataset: Build) -> None:
    assert lint(dataset(good), ("garp",)) == []


def test_sizes(good: Path, dataset: Build) -> None:
    Image.effect_noise((20, 20), 90).save(good / "tiny.png")
    Image.effect_noise((900, 100), 90).save(good / "wide.png")
    found = kinds(dataset(good, caption="garp"))
    assert ("tiny.png", "tiny") in found
    assert ("wide.png", "crop") in found
    assert len(found) == 2
    assert kinds(dataset(good, caption="garp", buckets={"upscale": False})) == []


def test_alpha_masks_of_images_without_transparency(good: Path, dataset: Build) -> None:
    with Image.open(good / "1.png") as picture:
        layered = picture.convert("RGBA")
    layered.putpixel((0, 0), (1, 2, 3, 0))
    layered.save(good / "1.png")
    found = kinds(dataset(good, masks="alpha"))
    assert [pair for pair in found if pair[1] == "mask"] == [("0.png", "mask"), ("2.png", "mask")]
    assert not [pair for pair in kinds(dataset(good)) if pair[1] == "mask"]


def test_captions(good: Path, dataset: Build) -> None:
    (good / "0.txt").unlink()
    (good / "1.txt").write_text("")
    (good / "2.txt").write_text("a photo of garp\na photo of a doll")
    assert kinds(dataset(good), "garp", "grp") == [
        ("0.png", "no_caption"),
        ("1.png", "empty_caption"),
        ("2.png", "trigger"),
    ]
    (last,) = [p for p in lint(dataset(good), ("garp",)) if p.kind == "trigger"]
    assert "a photo of a doll" in last.text


def test_a_trigger_word_may_come_from_a_template(good: Path, dataset: Build) -> None:
    transforms = [{"kind": "template", "templates": ["mia, {caption}"]}, "shuffle"]
    assert kinds(dataset(good), "mia") == [(f"{i}.png", "trigger") for i in range(3)]
    assert kinds(dataset(good, transforms=transforms), "mia") == []


def test_near_duplicates(good: Path, dataset: Build) -> None:
    shutil.copy(good / "0.png", good / "3.png")
    with Image.open(good / "1.png") as picture:
        ImageEnhance.Brightness(picture.resize((80, 80))).enhance(0.9).save(good / "4.jpg", quality=70)
    found = {p.path.name: p for p in lint(dataset(good, caption="x")) if p.kind == "duplicate"}
    assert set(found) == {"3.png", "4.jpg"}
    assert "same file" in found["3.png"].text
    assert "1.png" in found["4.jpg"].text
    assert (found["3.png"].severity, found["4.jpg"].severity) == ("warning", "note")


def test_left_out_images(good: Path, dataset: Build) -> None:
    (good / "1.png").write_bytes(b"")
    assert kinds(dataset(good, skip_bad_images=True)) == [("1.png", "skipped")]


def test_regularisation_images_need_no_trigger_word(good: Path, dataset: Build, tmp_path: Path) -> None:
    others = tmp_path / "others"
    shutil.copytree(good, others)
    for i in range(3):
        pixels = np.random.default_rng(50 + i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).save(others / f"{i}.png")
        (others / f"{i}.txt").write_text("a photo of a dog")
    both = dataset(None, subsets=[{"images": good}, {"images": others}])
    assert kinds(both, "garp") == []
    (good / "1.txt").write_text("a photo of a cat")
    both = dataset(None, subsets=[{"images": good}, {"images": others}])
    assert kinds(both, "garp") == [("1.png", "trigger")]


def test_a_trigger_that_no_written_caption_has_is_serious(good: Path, dataset: Build) -> None:
    def severities() -> set[str]:
        return {p.severity for p in lint(dataset(good), ("mia",)) if p.kind == "trigger"}

    assert severities() == {"serious"}
    # As `data` fills it in for images without a caption.
    (good / "0.txt").write_text("mia")
    assert severities() == {"serious"}
    (good / "0.txt").write_text("a photo of mia")
    assert severities() == {"warning"}
    for i in range(3):
        (good / f"{i}.txt").write_text("mia")
    assert severities() == set()

"""The pictures of conditions: they go wherever the pixels of their images go, into caches and batches."""

# pyright: reportAbstractUsage=false, reportPrivateUsage=false
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from positions import SIZES, TRANSFORMS, batches, colours, settings_of_transforms

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.data.condition_images import ConditionInput
from lorasmith.data.dataset import Dataset

Build = Callable[..., Dataset]
POSE, DEPTH = ConditionInput("pose", 8), ConditionInput("depth", 2, empty=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of blocks. Their pictures of the pose are the images themselves; the third has none of the depth."""
    for name in ("images", "pose", "depth"):
        (tmp_path / name).mkdir()
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        blocks = (random.random((height // 16, width // 16, 3)) > 0.5).repeat(16, 0).repeat(16, 1)
        picture = Image.fromarray((blocks * 255).astype(np.uint8))
        picture.save(tmp_path / "images" / f"{i}.png")
        picture.save(tmp_path / "pose" / f"{i}.png")
        if i != 2:
            picture.resize((width // 2, height // 2)).save(tmp_path / "depth" / f"{i}.png")
    return tmp_path


def with_conditions(dataset: Build, folder: Path, **more: Any) -> Dataset:
    folders = {"pose": str(folder / "pose"), "depth": str(folder / "depth")}
    data = dataset(subsets=[{"images": str(folder / "images"), "condition_images": folders}], batch_size=2, **more)
    data.conditions = (POSE, DEPTH)
    return data


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pictures_of_conditions_are_where_their_pixels_are(dataset: Build, folder: Path, name: str) -> None:
    seen = set()
    for again in range(2):  # the second time from the cache
        for batch in batches(with_conditions(dataset, folder, **settings_of_transforms(name))):
            shown = colours(batch)
            pose, depth = batch.conditions["condition.pose"], batch.conditions["condition.depth"]
            assert pose.shape == shown.shape
            assert depth.shape[-2:] == (4 * shown.shape[-2], 4 * shown.shape[-1])
            for i, path in enumerate(batch.names):
                assert torch.allclose(pose[i], shown[i], atol=0.06), (name, path, again)
                wanted = torch.full_like(shown[i], 0.5) if path.endswith("2.png") else shown[i]
                assert torch.allclose(torch.nn.functional.avg_pool2d(depth[i], 4), wanted, atol=0.15), (name, path)
                seen.add(pose[i].numpy().tobytes())
            assert torch.equal(batch.to("cpu").conditions["condition.pose"], pose)
    assert len(seen) >= (3 if name == "buckets" else 5)


def test_a_run_without_conditions_has_none_in_its_batches(dataset: Build, folder: Path) -> None:
    assert all(batch.conditions == {} for batch in batches(dataset(folder / "images"), 1))


def test_other_pictures_of_conditions_are_other_data(dataset: Build, folder: Path) -> None:
    first = with_conditions(dataset, folder)
    batches(first, 1)
    assert first._latent_cache.misses == 3
    Image.new("RGB", SIZES[0], (255, 0, 0)).save(folder / "pose" / "0.png")
    second = with_conditions(dataset, folder)
    batches(second, 1)
    assert (second._latent_cache.hits, second._latent_cache.misses) == (2, 1)
    assert second.fingerprint() != first.fingerprint()
    assert dataset(folder / "images").fingerprint() != first.fingerprint()


def test_pictures_below_the_images_are_not_trained_on(dataset: Build, folder: Path) -> None:
    shutil.move(folder / "pose", folder / "images" / "pose")
    folders = {"pose": str(folder / "images" / "pose")}
    data = dataset(subsets=[{"images": str(folder / "images"), "recursive": True, "condition_images": folders}])
    assert len(data.records) == 3


def test_mistakes_in_pictures_of_conditions_are_named(dataset: Build, folder: Path) -> None:
    wrong = {"pose": str(folder / "nowhere"), "depth": str(folder)}
    with pytest.raises(ConfigError) as error:
        dataset(subsets=[{"images": str(folder / "images"), "condition_images": wrong}])
    assert 'condition_images.pose: "' in str(error.value)
    assert 'has no picture for any of the 3 images, such as "0.png"' in str(error.value)
    Image.new("RGB", (10, 90)).save(folder / "pose" / "1.png")
    with pytest.raises(ConfigError, match="the picture of a condition has 10 x 90 pixels"):
        with_conditions(dataset, folder)
    (folder / "pose" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"pose/1\.png: not a picture"):
        with_conditions(dataset, folder)


def test_a_picture_that_changes_before_it_is_cached_is_refused(dataset: Build, folder: Path) -> None:
    data = with_conditions(dataset, folder)
    Image.new("RGB", SIZES[0], (0, 255, 0)).save(folder / "pose" / "0.png")
    with pytest.raises(LorasmithError, match="the file has changed since the data set was read"):
        batches(data)

"""Masks of single concepts: they go wherever their pixels go, into caches and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from positions import SIZES, TRANSFORMS, batches, colours, settings_of_transforms

from lorasmith.core.errors import ConfigError
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import load_config

Build = Callable[..., Dataset]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images whose red is the mask of one concept and whose green that of another; the blue is the image's own. The
    third image has no mask of the second concept."""
    for sub in ("a", "b", "own", "images"):
        (tmp_path / sub).mkdir()
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        blocks = (random.random((3, height // 16, width // 16)) > 0.5).repeat(16, 1).repeat(16, 2)
        channels = (blocks * 255).astype(np.uint8)
        Image.fromarray(channels.transpose(1, 2, 0)).save(tmp_path / "images" / f"{i}.png")
        for sub, channel in zip(("a", "b", "own"), channels, strict=True):
            if (sub, i) != ("b", 2):
                Image.fromarray(channel).save(tmp_path / sub / f"{i}.png")
    return tmp_path


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    subset = {"images": str(folder / "images"), "concept_masks": {"<a>": str(folder / "a"), "<b>": str(folder / "b")}}
    return {"subsets": [subset | more]}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_masks_are_where_their_pixels_are(dataset: Build, folder: Path, name: str) -> None:
    table = settings(folder, masks=str(folder / "own")) | settings_of_transforms(name)
    seen = set()
    for again in range(2):  # the second time from the cache
        for batch in batches(dataset(**table, batch_size=2)):
            assert batch.concept_masks is not None
            assert batch.concept_masked is not None
            assert batch.concept_names == ("<a>", "<b>")
            assert batch.concept_masked.min() == 1
            shown = colours(batch)
            for i, path in enumerate(batch.names):
                wanted = shown[i, [0, 2]] if path.endswith("2.png") else shown[i, :2]  # else the image's own
                assert torch.allclose(batch.concept_masks[i], wanted, atol=0.03), (name, path, again)
                seen.add(batch.concept_masks[i].numpy().tobytes())
            assert batch.to("cpu").concept_masks is not None
    assert len(seen) >= (3 if name == "buckets" else 5)


def test_what_no_mask_tells_is_not_known(dataset: Build, folder: Path) -> None:
    for batch in batches(dataset(**settings(folder), batch_size=1), 1):
        assert batch.mask is None  # the loss counts everywhere
        assert batch.subject is None
        assert batch.concept_masks is not None
        assert batch.concept_masked is not None
        second = batch.names[0].endswith("2.png")
        assert batch.concept_masked.tolist() == [[1.0, 0.0 if second else 1.0]]
        if second:
            assert batch.concept_masks[0, 1].min() == 1
    plain = dataset(folder / "images")
    assert next(iter(batches(plain, 1))).concept_masks is None


def test_other_masks_are_other_data(dataset: Build, folder: Path) -> None:
    first = dataset(**settings(folder))
    batches(first)
    assert first._latent_cache.misses == 3
    Image.new("L", SIZES[0], 255).save(folder / "a" / "0.png")
    second = dataset(**settings(folder))
    batches(second)
    assert (second._latent_cache.hits, second._latent_cache.misses) == (2, 1)
    assert second.fingerprint() != first.fingerprint()
    assert dataset(folder / "images").fingerprint() != first.fingerprint()


def test_mistakes_are_named(dataset: Build, folder: Path) -> None:
    table = settings(folder)
    table["subsets"][0]["concept_masks"] = {"<a>": str(folder / "nowhere"), "<b>": str(folder)}
    with pytest.raises(ConfigError) as error:
        dataset(**table)
    assert 'concept_masks.<a>: "' in str(error.value)
    assert "nowhere" in str(error.value)
    assert 'has no mask of any of the 3 images, such as "0.png"' in str(error.value)
    Image.new("L", (10, 90)).save(folder / "a" / "1.png")
    with pytest.raises(ConfigError, match="must have the same aspect ratio"):
        dataset(**settings(folder))


def test_masks_are_of_concepts_that_there_are(folder: Path) -> None:
    table = {"base": "tiny-sd", "output": str(folder / "run"), "data": settings(folder)}
    part = {"parts": [{"kind": "attention_regularisation"}]}
    good = {"concepts": [{"words": ["<a>", "<a2>"]}, {"words": "<b>"}], "objective": part}
    load_config(table | good)
    with pytest.raises(ConfigError, match=r"(?s)concept_masks.<b>: is not a new word.*<a>, <a2>"):
        load_config(table | {"concepts": [{"words": ["<a>", "<a2>"]}]})
    with pytest.raises(ConfigError, match="is of the same concept as <a>"):
        load_config(table | {"concepts": [{"words": ["<a>", "<b>"]}]})
    with pytest.raises(ConfigError, match="is about new words, but the run has none"):
        load_config({**table, "data": {"images": str(folder / "images")}, "objective": part})

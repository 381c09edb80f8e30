"""Faults that were found in the original by running it, absent here: each test names one.

Two need whole runs: resuming (`tests/e2e/test_kohya_states.py`) and XTI, which cannot start there
(`tests/e2e/test_kohya_words.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorasmith.compat.options import Conversion
from lorasmith.core.errors import ConfigError
from lorasmith.data.dataset import Dataset
from lorasmith.diffusion.prediction import VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.min_snr import MinSnr
from lorasmith.train.config import TrainConfig, load_config

Convert = Callable[..., Conversion]


@pytest.fixture
def many(train_dir: Path) -> Path:
    """Forty images with captions, all different."""
    folder = train_dir / "many/1_x"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(draws.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(f"caption {i:02}")
    return train_dir


@pytest.fixture
def dataset(many: Path, convert: Convert) -> Callable[..., Dataset]:
    """The data of the forty images, with options of the script."""

    def build(**values: Any) -> Dataset:
        config = load_config(convert(train_data_dir="many", caption_extension=".txt", **values).config)
        return Dataset.build(config.data, seed=config.seed)

    return build


@pytest.mark.parametrize("workers", [0, 2, 8])
def test_epochs_are_exact_with_any_number_of_workers(dataset: Callable[..., Dataset], workers: int) -> None:
    data = dataset(max_data_loader_n_workers=workers)
    orders = []
    for epoch in range(3):
        seen = [item.record for plan in data.epoch(epoch) for item in plan.items]
        assert Counter(seen) == dict.fromkeys(range(40), 1)
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_views_do_not_share_their_draws(dataset: Callable[..., Dataset]) -> None:
    """Two views of one epoch flip, or shuffle, each for itself."""
    data = dataset(flip_aug=True)
    flips = [data.view(data.records[item.record], item).variant for plan in data.epoch(0) for item in plan.items]
    assert len(set(flips)) == 2
    halves = flips[:20], flips[20:]
    assert halves[0] != halves[1]


def test_captions_are_left_out_in_the_epochs_that_are_meant(dataset: Callable[..., Dataset]) -> None:
    data = dataset(caption_dropout_every_n_epochs=3, max_data_loader_n_workers=8)
    for epoch in range(6):
        items = [item for plan in data.epoch(epoch) for item in plan.items]
        empty = [data.caption(data.records[item.record], item) == "" for item in items]
        assert set(empty) == {epoch in (2, 5)}


def test_validation_never_leaks(dataset: Callable[..., Dataset]) -> None:
    data = dataset(validation_split=0.25)
    trained, held = {r.digest for r in data.records}, {r.digest for r in data.validation}
    assert not trained & held
    assert len(trained) + len(held) == 40
    assert len(held) == 10


def test_captions_stay_with_their_images(dataset: Callable[..., Dataset]) -> None:
    data = dataset(validation_split=0.25, cache_info=True)
    for record in [*data.records, *data.validation]:
        assert record.captions == (f"caption {record.path.stem}",)


def test_latents_follow_size_and_content(dataset: Callable[..., Dataset], many: Path) -> None:
    def cause(data: Dataset) -> dict[str, Any]:
        record = data.records[0]
        return data.view(record, next(i for p in data.epoch(0) for i in p.items if i.record == 0)).causes()

    first = cause(dataset())
    assert cause(dataset(resolution="128")) != first
    assert cause(dataset()) == first
    Image.new("RGB", (64, 64), "red").save(many / "many/1_x/00.png")
    assert cause(dataset()) != first


def test_a_mask_that_is_switched_off_is_forgotten(dataset: Callable[..., Dataset]) -> None:
    assert dataset(alpha_mask=True).records[0].mask == "alpha"
    assert dataset().records[0].mask is None


def test_weights_follow_the_schedule_that_is_used() -> None:
    """min-SNR over a schedule with zero terminal SNR has the changed SNR."""
    schedule = NoiseSchedule.scaled_linear().zero_terminal_snr()
    t = torch.tensor([10, 500, 998])
    abar = schedule.alphas_cumprod[t].double()
    snr = abar / (1 - abar)
    expected = snr.clamp(max=5.0) / (snr + 1)
    found = MinSnr(gamma=5.0)(t, schedule, VPrediction())
    assert found.double() == pytest.approx(expected, rel=1e-4)


def test_weights_that_are_merged_do_not_change_what_is_trained(convert: Convert) -> None:
    """A merge is a step of its own, and its result a base like any other."""
    with pytest.raises(ConfigError, match="lorasmith merge"):
        convert(base_weights=["a.safetensors"])


def test_parts_that_rest_have_no_gradients(convert: Convert) -> None:
    config: TrainConfig = load_config(convert(text_encoder_lr=0).config)
    assert config.parts() == ("unet",)
    assert load_config(convert(unet_lr=0).config).parts() == ("text",)


@pytest.mark.parametrize("size", [(40, 300), (8, 8), (300, 40), (3000, 400)])
def test_no_bucket_is_empty(dataset: Callable[..., Dataset], size: tuple[int, int]) -> None:
    data = dataset(enable_bucket=True, bucket_no_upscale=True, resolution="512")
    assert min(data.buckets.place(size).bucket) >= 8


def test_a_split_in_a_subset_is_read(convert: Convert, many: Path) -> None:
    """As the original's own document has it, where it is an error."""
    (many / "d.toml").write_text(
        '[[datasets]]\nresolution = "64"\n[[datasets.subsets]]\nimage_dir = "many/1_x"\nvalidation_split = 0.25\n'
    )
    assert convert(dataset_config="d.toml").config["data"]["validation"] == {"split": 0.25}

"""Scripts of other trainers on several processes: steps, epochs and learning rates are the originals'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.compat.script import Conversion, find_script
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import run_length

Convert = Callable[..., Conversion]
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)


def steps_of(conversion: Conversion) -> tuple[int, list[int]]:
    """The steps of the run, and the images in each step of an epoch."""
    config = load_config(conversion.config)
    dataset = Dataset.build(config.data, seed=0)
    plans = dataset.epoch(0)
    counts = [len(plan.views) for plan in plans]
    size = config.accumulation
    return run_length(config, dataset).steps, [sum(counts[i : i + size]) for i in range(0, len(counts), size)]


@pytest.fixture
def wide_and_tall(train_dir: Path) -> str:
    """Five images in each of two buckets: three batches of at most 2 in each."""
    folder = train_dir / "both/1_x"
    folder.mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (96, 48) if i % 2 else (48, 96), (i, i, i)).save(folder / f"{i}.png")
    return "both"


@pytest.mark.usefixtures("two_ranks")
def test_each_rank_has_a_batch_of_its_own(convert: Convert, wide_and_tall: str) -> None:
    """Six batches of 2 or 1 image are three steps of two ranks; 2 epochs are 6 steps."""
    found = convert(
        train_data_dir=wide_and_tall, train_batch_size=2, max_train_epochs=2, enable_bucket=True, min_bucket_reso=16
    )
    steps, images = steps_of(found)
    assert (steps, sum(images), len(images)) == (6, 10, 3)
    assert max(images) == 4
    assert any("each of the 2 processes" in note for note in found.notes)


def test_one_process_is_as_ever(convert: Convert, wide_and_tall: str) -> None:
    found = convert(train_data_dir=wide_and_tall, train_batch_size=2, max_train_epochs=2, enable_bucket=True)
    assert found.config["accumulation"] == 1
    assert not any("processes" in note for note in found.notes)


@pytest.mark.usefixtures("two_ranks")
def test_a_warm_up_ends_where_the_originals_does(convert: Convert) -> None:
    """Its schedule takes a step for each process; a share of the run is the same share."""
    whole = convert(lr_scheduler="cosine", lr_warmup_steps=100, max_train_steps=400).config
    assert (whole["steps"], whole["lr_schedule"]["warmup"]) == (400, 50)
    assert convert(lr_scheduler="cosine", lr_warmup_steps=0.1).config["lr_schedule"]["warmup"] == 0.1
    rules = convert(lr_scheduler="piecewise_constant", lr_scheduler_args=["step_rules=1:10,0.1:20,0.01"])
    assert rules.config["lr_schedule"]["pieces"] == [[1.0, 5], [0.1, 10]]


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize(
    ("script", "folder"),
    [("train_dreambooth_lora", "instance_data_dir"), ("train_text_to_image_lora", "train_data_dir")],
)
def test_diffusers_scripts(script: str, folder: str, train_dir: Path) -> None:
    """Ten images in batches of 2 are 5 batches, 3 for each of two ranks: 6 steps in 2 epochs. Warm-up is in steps."""
    (train_dir / "ten").mkdir()
    for i in range(10):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(train_dir / "ten" / f"{i}.png")
    chosen = find_script(script)
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": "tiny-sd",
        folder: "ten",
        "instance_prompt": "a",
        "output_dir": "out",
        "resolution": 64,
        "train_batch_size": 2,
        "num_train_epochs": 2,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 3,
        "scale_lr": True,
        "learning_rate": 1e-4,
    }
    known = {option.name for option in chosen.options}
    config = chosen.convert(chosen.read({k: v for k, v in values.items() if k in known}, [])).config
    assert (config["steps"], config["accumulation"], config["data"]["batch_size"]) == (6, 2, 2)
    assert config["lr_schedule"]["warmup"] == 3
    assert config["optimizer"]["lr"] == pytest.approx(4e-4)

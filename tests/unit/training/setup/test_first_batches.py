"""The picture of the first batches shows what training gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import lorasmith
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import build_run
from lorasmith.training.setup.first_batches import first_epoch_cells
from lorasmith.training.step.loop import remaining_steps

SIDE = 192
"""Of the cells, so that pictures of this size stay as they are."""


def table(images: Path, **data: Any) -> dict[str, Any]:
    found = {"images": str(images), "resolution": SIDE, "batch_size": 2, **data}
    return {"base": "tiny-sd", "output": str(images.parent / "run"), "epochs": 1, "accumulation": 2, "data": found}


def test_order_captions_and_pixels_are_those_of_training(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Of seven images in micro-batches of two, two a step; some are flipped, each tag that is dropped is missing."""
    images = pictures(7, size=(SIDE, SIDE))
    transforms = [{"kind": "flip"}, {"kind": "tag_dropout", "rate": 0.5}]
    config = load_config(table(images, transforms=transforms) | {"log": {"tensorboard": False}})
    found = list(first_epoch_cells(Dataset.build(config.data, seed=config.seed), config.accumulation))

    run = build_run(config)
    trained: list[tuple[int, Path]] = []
    for _, plans in remaining_steps(run):
        run.state.step += 1
        trained += [(run.state.step, run.dataset.records[v.record].path) for plan in plans for v in plan.views]
    captions = [c for plan in run.dataset.epoch(0) for c in run.dataset.load(plan).captions]
    run.events.close()
    run.adapters.detach()
    assert [c.text for c in found] == [
        f"step {step}, {SIDE} x {SIDE}\n{caption or '(no caption)'}"
        for (step, _), caption in zip(trained, captions, strict=True)
    ]
    ways = set()
    for cell, (_, path) in zip(found, trained, strict=True):
        with Image.open(path) as file:
            own = file.convert("RGB")
        same = [np.array_equal(np.asarray(way), np.asarray(cell.picture)) for way in (own, ImageOps.mirror(own))]
        assert any(same)
        ways.add(same[0])
        assert not cell.masked
    assert ways == {True, False}


def test_masks_are_seen(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images, masks = pictures(2, size=(SIDE, SIDE)), tmp_path / "masks"
    masks.mkdir()
    for i in range(2):
        mask = Image.new("L", (SIDE, SIDE), 255)
        mask.paste(0, (0, 0, SIDE // 2, SIDE))
        mask.save(masks / f"{i:02d}.png")
    settings = table(images)
    settings["data"] = {"resolution": SIDE}
    settings["data"]["subsets"] = [{"images": str(images), "masks": str(masks), "loss_weight": 0.5}]
    config = load_config(settings)
    cell = next(first_epoch_cells(Dataset.build(config.data, seed=0), 1))
    assert cell.masked
    assert ", loss x 0.5\n" in cell.text
    with Image.open(images / f"{cell.text[-1]:0>2}.png") as file:
        own = np.asarray(file.convert("RGB")).astype(int)
    shown = np.asarray(cell.picture).astype(int)
    assert np.array_equal(shown[:, SIDE // 2 + 8 :], own[:, SIDE // 2 + 8 :])
    assert np.abs(shown[:, : SIDE // 2 - 8] - (0.3 * own[:, : SIDE // 2 - 8] + 0.7 * np.array([150, 0, 60]))).max() <= 1


def test_check_draws_it(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(3)
    found = lorasmith.check(table(images, resolution=64), pictures=tmp_path / "sheets/first.jpg")
    assert found.ok
    with Image.open(tmp_path / "sheets/first.jpg") as sheet:
        assert sheet.width > 3 * SIDE
    assert found.to_dict()["pictures"] == str(tmp_path / "sheets/first.jpg")
    assert not (tmp_path / "run").exists()
    bad = lorasmith.check(table(tmp_path / "none"), pictures=tmp_path / "none.jpg")
    assert not bad.ok
    assert not (tmp_path / "none.jpg").exists()


def test_check_warns_of_a_file_that_is_in_the_way(pictures: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "run.safetensors").write_bytes(b"")
    found = lorasmith.check(table(pictures(3), resolution=64) | {"export": {"folder": str(tmp_path)}})
    assert found.ok
    assert "export.folder" in [p.where for p in found.warnings]

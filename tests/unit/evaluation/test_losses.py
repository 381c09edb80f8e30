"""Losses of images: exactly 0 above the base for a LoRA that changes nothing, large for one that destroys it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.core.progress import Lines, Progress
from lorasmith.evaluation.losses import MOST_IMAGES, FixedImages, LossImages, loss_images, read_records, spread
from lorasmith.evaluation.run import read_loss_records
from lorasmith.evaluation.settings import EvaluateSettings
from lorasmith.families.base import Family
from lorasmith.families.load import load


@pytest.fixture
def family(random_base: Callable[..., Path]) -> Family:
    return load(str(random_base()))


@pytest.fixture
def adapters(family: Family) -> Iterator[AdapterSet]:
    config = LoRA(rank=2, layers=("*attn*.to_k", "*attn*.to_q"))
    attached = AdapterSet.create(config, family.named_layers(("unet",)), family.layer_presets, seed=0)
    yield attached.attach()
    attached.detach()


def fixed(family: Family, folder: Path) -> LossImages:
    records = read_records(folder, 64)
    return loss_images(family, (64, 64), trained=records[:3], held_out=records[3:5], class_images=records)


def test_the_losses_of_a_lora_that_changes_nothing_are_those_of_the_base(
    family: Family, pictures: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    images = fixed(family, pictures(6))
    images.measure_base()
    request.getfixturevalue("adapters")
    for name, values in images.values().items():
        interval = values.interval()
        assert interval is not None
        assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0), name


@pytest.mark.slow
def test_a_lora_that_destroys_the_base_drifts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lorasmith.evaluation.losses.MOST_IMAGES", 3)
    family = load("tiny-sd")
    images = loss_images(family, (128, 128), class_images=read_records(assets() / "others", 128))
    images.measure_base()
    config = LoRA(rank=2, layers=("*attn*.to_k", "*attn*.to_q"))
    adapters = AdapterSet.create(config, family.named_layers(("unet",)), family.layer_presets, seed=0).attach()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(5 * torch.randn(parameter.shape, generator=generator))
    drift = images.values()["drift_loss"].interval()
    assert drift is not None
    # the loss of each image is several times as high as on the base
    assert drift.low > 0.5


def test_each_image_has_its_own_noise_whatever_its_batch(family: Family, pictures: Callable[..., Path]) -> None:
    records = read_records(pictures(6), 64)
    together = FixedImages(family, records, (64, 64)).losses()
    # the first five are another batch than the sixth
    alone = FixedImages(family, records[:1], (64, 64)).losses()
    assert len(together) == 6
    assert together[0] == pytest.approx(alone[0], rel=1e-4)


def test_without_captions_all_images_have_the_empty_text(family: Family, pictures: Callable[..., Path]) -> None:
    records = read_records(pictures(2), 64)
    assert (
        FixedImages(family, records, (64, 64)).losses()
        != FixedImages(family, records, (64, 64), with_captions=False).losses()
    )


def test_copying_is_how_much_more_the_loss_fell_on_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, held_out = object.__new__(FixedImages), object.__new__(FixedImages)
    increases = {id(trained): ((-0.5,), (-0.4,)), id(held_out): ((0.1,), (-0.1,))}
    monkeypatch.setattr(FixedImages, "increases", lambda self: increases[id(self)])
    values = LossImages(trained, held_out).values()
    assert list(values) == ["copying_loss"]
    gap = values["copying_loss"].interval()
    assert gap is not None
    assert gap.mean == pytest.approx(0.45)
    assert gap.low > 0


def test_without_images_of_both_kinds_there_is_no_gap(family: Family, pictures: Callable[..., Path]) -> None:
    records = read_records(pictures(2), 64)
    images = loss_images(family, (64, 64), trained=records)
    assert images == LossImages()


def test_of_many_images_some_are_measured(pictures: Callable[..., Path]) -> None:
    records = read_records(pictures(2), 64) * 40
    assert len(spread(records)) == MOST_IMAGES
    assert spread(records[:2]) == records[:2]


def test_a_training_image_is_not_held_out(pictures: Callable[..., Path]) -> None:
    trained, held_out = pictures(3), pictures(1, name="held-out")
    settings = EvaluateSettings(held_out=held_out)
    with pytest.raises(LorasmithError, match=r"--held-out: .*00\.png is the training image 00\.png"):
        read_loss_records(trained, settings, 64, Progress())


def test_class_images_without_captions_are_named(pictures: Callable[..., Path]) -> None:
    others = pictures(2, size=(60, 60), name="others")
    (others / "01.txt").unlink()
    said: list[str] = []
    records = read_loss_records(pictures(3), EvaluateSettings(class_images=others), 64, Lines(said.append))
    assert {role: len(images) for role, images in records.items()} == {"trained": 3, "class_images": 2}
    assert said == ["--class-images: measured with an empty text, since they have no caption: 01.png"]

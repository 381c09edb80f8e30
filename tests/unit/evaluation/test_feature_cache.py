"""Pictures are looked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lorasmith.core.progress import Progress
from lorasmith.evaluation.base import FeatureExtractor, Features
from lorasmith.evaluation.clip import Clip
from lorasmith.evaluation.feature_cache import FeatureCache


class Counting(FeatureExtractor):
    """The mean colour, and how many pictures were looked at."""

    def __init__(self) -> None:
        self.count = 0

    def pictures(self, images: Sequence[Image.Image]) -> Features:
        self.count += len(images)
        means = torch.tensor([image.convert("RGB").resize((1, 1)).getpixel((0, 0)) for image in images]).float()
        return Features(means, -means)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 3)


def test_what_was_seen_is_not_looked_at_again(pictures: Callable[..., Path], tmp_path: Path) -> None:
    paths = sorted(pictures(4).glob("*.png"))
    extractor, scorer = Counting(), Clip(model="a")
    first = FeatureCache(tmp_path, scorer, extractor).features(paths, "", Progress())
    assert extractor.count == 4
    again = FeatureCache(tmp_path, scorer, extractor).features(paths[::-1], "", Progress())
    assert extractor.count == 4
    assert torch.equal(again.image, first.image.flip(0))
    assert torch.equal(again.text, -again.image)

    Image.new("RGB", (8, 8), "red").save(paths[1])  # the same name, another picture
    changed = FeatureCache(tmp_path, scorer, extractor).features(paths, "", Progress())
    assert extractor.count == 5
    assert changed.image[1].tolist() == [255, 0, 0]
    assert torch.equal(changed.image[[0, 2, 3]], first.image[[0, 2, 3]])

    FeatureCache(tmp_path, Clip(model="b"), extractor).features(paths, "", Progress())
    assert extractor.count == 9, "another scorer sees otherwise"
    FeatureCache(tmp_path, Clip(model="b", batch_size=3), extractor).features(paths, "", Progress())
    assert extractor.count == 9


def test_a_damaged_file_and_other_weights_are_no_memory(pictures: Callable[..., Path], tmp_path: Path) -> None:
    paths = sorted(pictures(2).glob("*.png"))
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1")
    extractor, scorer = Counting(), Clip(model=str(weights))
    memory = FeatureCache(tmp_path / "seen", scorer, extractor)
    memory.features(paths, "", Progress())
    memory.file.write_bytes(b"x")
    FeatureCache(tmp_path / "seen", scorer, extractor).features(paths, "", Progress())
    assert extractor.count == 4
    (weights / "model.safetensors").write_bytes(b"22")
    FeatureCache(tmp_path / "seen", scorer, extractor).features(paths, "", Progress())
    assert extractor.count == 6

"""Whether what goes with an image (masks, pictures of conditions) is where its pixels are."""

from __future__ import annotations

from typing import Any

import torch
from fake_family import FakeFamily

from lorasmith.core.progress import Progress
from lorasmith.data.batch import Batch
from lorasmith.data.dataset import Dataset, TextSettings

SIZES = ((80, 64), (64, 96), (64, 64))
"""(width, height) of the images."""
TRANSFORMS: dict[str, list[dict[str, Any]]] = {
    "buckets": [],
    "flip": [{"kind": "flip"}],
    "crop": [{"kind": "random_crop"}, {"kind": "flip"}],
    "letterbox": [{"kind": "letterbox", "kept": 3, "scale": [0.5, 1]}],
    "live": [{"kind": "letterbox", "crop": 1}],
}
"""Transforms that move pixels, by the name of a test's case."""


def settings_of_transforms(name: str) -> dict[str, Any]:
    """The data settings of a case of `TRANSFORMS`."""
    square = {} if name in ("buckets", "flip") else {"buckets": {"enabled": False}}
    return {"transforms": TRANSFORMS[name], **square}


def batches(data: Dataset, epochs: int = 3) -> list[Batch]:
    """The batches of some epochs."""
    data.prepare(FakeFamily(), text=TextSettings(), progress=Progress())
    return [data.load(plan) for epoch in range(epochs) for plan in data.epoch(epoch)]


def colours(batch: Batch) -> torch.Tensor:
    """(B, 3, h, w) in 0..1, the means over 8 x 8 pixels."""
    if batch.latents is not None:
        return (batch.latents.mean[:, :3] + 1) / 2
    assert batch.pixels is not None
    return torch.nn.functional.avg_pool2d((batch.pixels + 1) / 2, 8)

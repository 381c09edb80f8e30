"""A family that encodes by simple arithmetic and counts what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasmith.families.base import Conditioning, Family, LatentDistribution


class FakeFamily(Family):
    """Latents are 8 x 8 means of the pixels (the fourth channel is their mean), conditions hashes of the text."""

    kind = "fake"
    device = torch.device("cpu")
    source = "fake"

    def __init__(self, vae: str = "vae", text: str = "text", std: bool = True) -> None:
        self.prints, self.std = {"vae": vae, "text": text}, std
        self.images = self.texts = 0

    def fingerprint(self, part: str) -> str:
        return self.prints[part]

    def encode_image(self, pixels: Tensor) -> LatentDistribution:
        self.images += len(pixels)
        mean = F.avg_pool2d(pixels, 8)
        mean = torch.cat([mean, mean.mean(1, keepdim=True)], 1)
        return LatentDistribution(mean, torch.full_like(mean, 0.5) if self.std else None)

    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
        self.texts += len(captions)
        rows = [torch.tensor([float(sum(c.encode())), len(c), max_tokens, clip_skip]) for c in captions]
        return Conditioning({"context": torch.stack(rows)[:, None]})


def _missing(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the data layer has no business with this")


for _name in list(FakeFamily.__abstractmethods__):
    setattr(FakeFamily, _name, _missing)
FakeFamily.__abstractmethods__ = frozenset()

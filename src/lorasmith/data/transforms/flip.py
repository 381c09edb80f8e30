"""Mirroring."""

from __future__ import annotations

from typing import Literal

from lorasmith.data.transforms.base import ImageTransform, Sample


class Flip(ImageTransform):
    """Mirrors the image, left to right, in half of all views. Not for characters whose sides differ."""

    kind: Literal["flip"] = "flip"

    @property
    def variants(self) -> int:
        return 2

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample.map("fliplr") if variant else sample

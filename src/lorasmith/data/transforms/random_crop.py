"""Crops at one of several positions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lorasmith.data.placement import Crop, Placement, Size
from lorasmith.data.transforms.base import ImageTransform, Sample


class RandomCrop(ImageTransform):
    """Crops an image that is larger than its bucket at one of `places` evenly spaced positions, not at the centre.

    The number of positions is finite, so that the latents of all of them can be cached.
    """

    kind: Literal["random_crop"] = "random_crop"
    places: int = Field(default=5, ge=2, le=33)

    @property
    def variants(self) -> int:
        return self.places

    @property
    def cuts(self) -> bool:
        return True

    def cut(self, path: Path, size: Size, place: Placement, variant: int) -> Crop:
        # From one end of the image to the other: the first and the last variant touch its edges.
        position = variant / (self.places - 1)
        return Crop(place.resized, place.box(position))

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample

"""Crops at one of several places."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.data.transforms.base import Cut, ImageTransform, Sample

if TYPE_CHECKING:
    from lorasmith.data.buckets import Placement


class RandomCrop(ImageTransform):
    """Where an image is larger than its bucket, crops at one of `places` evenly spaced places in place of the centre.

    A finite number of places keeps all of them cacheable.
    """

    kind: Literal["random_crop"] = "random_crop"
    places: int = Field(default=5, ge=2, le=33)

    @property
    def variants(self) -> int:
        return self.places

    @property
    def cuts(self) -> bool:
        return True

    def cut(self, path: Path, size: tuple[int, int], place: Placement, variant: int) -> Cut:
        return Cut(place.resized, place.box(variant / (self.places - 1)))

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample

"""Crops at one of several places."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import ImageTransform, Sample


class RandomCrop(ImageTransform):
    """Where an image is larger than its bucket, crops at one of `places` evenly spaced places in place of the centre.

    The dataset asks for the crop of a variant; a finite number of places keeps all of them cacheable.
    """

    kind: Literal["random_crop"] = "random_crop"
    places: int = Field(default=5, ge=2, le=33)

    @property
    def variants(self) -> int:
        return self.places

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample

    def share(self, variant: int) -> float:
        """How far along the crop's room the variant lies, 0 to 1."""
        return variant / (self.places - 1)

"""Colours a little different now and then."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lorasmith.data.transforms.base import ImageTransform, Sample


class Color(ImageTransform):
    """Other hues, or another brightness, with probability `rate`; each in half of these cases.

    sd-scripts' `color_aug` has the same chances and ranges; its brightness is a power of values up to 255, which
    clips, here one of values up to 1, which does not.
    """

    kind: Literal["color"] = "color"
    rate: float = Field(default=0.33, ge=0, le=1)
    hue: float = Field(default=16.0, ge=0, le=180)
    """At most so many degrees to either side."""
    gamma: float = Field(default=0.05, ge=0, lt=1)
    """The power of brightness lies so far from 1 at most."""
    kept: int = Field(default=0, ge=0)
    """So many forms of each image, whose latents are then cached; 0: a new one in each view, encoded anew."""

    @property
    def variants(self) -> int | None:
        return self.kept or None

    def apply(self, sample: Sample, variant: int) -> Sample:
        random = Random(variant)
        if random.random() >= self.rate:
            return sample
        values = sample.pixels.astype(np.float32) / np.float32(255)
        if random.random() < 0.5:
            values = turned(values, random.uniform(-self.hue, self.hue))
        else:
            values = np.power(values, np.float32(random.uniform(1 - self.gamma, 1 + self.gamma)), dtype=np.float32)
        return replace(sample, pixels=np.round(values * 255).astype(np.uint8))


def turned(rgb: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """Values (..., 3) in 0..1 with their hue turned; largest and smallest value of each pixel stay."""
    top, low = rgb.max(-1, keepdims=True), rgb.min(-1, keepdims=True)
    width = np.where(top > low, top - low, 1)
    red, green, blue = np.split((rgb - low) / width, 3, axis=-1)
    hue = np.select([red == 1, green == 1], [green - blue, 2 + blue - red], 4 + red - green)
    places = (hue + degrees / 60 + np.array([0, 4, 2], dtype=np.float32)) % 6
    return low + (top - low) * np.clip(np.abs(places - 3) - 1, 0, 1)

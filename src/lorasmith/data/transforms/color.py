"""Random changes of hue or brightness."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lorasmith.data.transforms.base import ImageTransform, Sample


class Color(ImageTransform):
    """With probability `rate`, rotates the hue or changes the brightness, each in half of these cases.

    Probabilities and ranges are those of sd-scripts' `color_aug`. There the power that changes the brightness is taken
    of values up to 255, which clips; here of values up to 1, which does not.
    """

    kind: Literal["color"] = "color"
    rate: float = Field(default=0.33, ge=0, le=1)
    hue: float = Field(default=16.0, ge=0, le=180)
    """The largest rotation of the hue to either side, in degrees."""
    gamma: float = Field(default=0.05, ge=0, lt=1)
    """The brightness is raised to a power in 1 - gamma .. 1 + gamma."""
    kept: int = Field(default=0, ge=0)
    """Number of variants of each image, whose latents are then cached; 0: a new variant in each view, encoded in each
    step."""

    @property
    def variants(self) -> int | None:
        return self.kept or None

    def apply(self, sample: Sample, variant: int) -> Sample:
        random = Random(variant)
        if random.random() >= self.rate:
            return sample
        values = sample.pixels.astype(np.float32) / np.float32(255)
        # Never both at once, as in sd-scripts.
        if random.random() < 0.5:
            values = rotate_hue(values, random.uniform(-self.hue, self.hue))
        else:
            power = random.uniform(1 - self.gamma, 1 + self.gamma)
            values = np.power(values, np.float32(power), dtype=np.float32)
        return replace(sample, pixels=np.round(values * 255).astype(np.uint8))


def rotate_hue(rgb: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """RGB values (..., 3) in 0..1 with their hue rotated; the largest and the smallest value of each pixel stay."""
    largest, smallest = rgb.max(-1, keepdims=True), rgb.min(-1, keepdims=True)
    chroma = np.where(largest > smallest, largest - smallest, 1)
    red, green, blue = np.split((rgb - smallest) / chroma, 3, axis=-1)

    # The hue in sixths of a circle, 0 for red (the hexcone model of HSV).
    hue = np.select([red == 1, green == 1], [green - blue, 2 + blue - red], 4 + red - green)

    # Back to RGB: each channel is 1 within one sixth of its own hue, and falls to 0 over the next sixth.
    shifted = (hue + degrees / 60 + np.array([0, 4, 2], dtype=np.float32)) % 6
    return smallest + (largest - smallest) * np.clip(np.abs(shifted - 3) - 1, 0, 1)

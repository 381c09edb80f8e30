"""Aspect-ratio buckets, by kohya's rules: sizes of about the same area, each image in the one nearest in shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorasmith.data.config import BucketConfig, DataConfig

Size = tuple[int, int]
"""(width, height)."""


@dataclass(frozen=True)
class Placement:
    """Where an image goes: its bucket, the size that it is resized to, and the crop's left top corner if centred."""

    bucket: Size
    resized: Size

    def box(self, along: float = 0.5) -> tuple[int, int, int, int]:
        """The crop (left, top, right, bottom), `along` of the way through the room there is (0.5: the centre)."""
        (bw, bh), (rw, rh) = self.bucket, self.resized
        left, top = math.floor((rw - bw) * along), math.floor((rh - bh) * along)
        return (left, top, left + bw, top + bh)

    @property
    def lost(self) -> float:
        """The share of the resized image that the crop cuts off."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])


@dataclass(frozen=True)
class Buckets:
    """The rule that places images."""

    resolution: Size
    sizes: tuple[Size, ...]
    step: int
    upscale: bool = True

    @classmethod
    def of(cls, data: DataConfig) -> Buckets:
        """The rule that a config asks for; automatic sizes filled in."""
        config, (width, height) = data.buckets, data.size
        small = min(width, height)
        step = config.step or (64 if small >= 256 else 16)
        if not config.enabled:
            return cls(data.size, (data.size,), step)
        sizes = predefined(data.size, *limits(config, data.size, step), step)
        return cls(data.size, sizes, step, config.upscale)

    def place(self, size: Size) -> Placement:
        """The placement of an image of `size`."""
        if not self.upscale:
            return self._place_small(size)
        width, height = size
        ratio = width / height
        bucket = size if size in self.sizes else min(self.sizes, key=lambda s: (abs(s[0] / s[1] - ratio), s))
        scale = max(bucket[0] / width, bucket[1] / height)
        resized = max(bucket[0], int(width * scale + 0.5)), max(bucket[1], int(height * scale + 0.5))
        return Placement(bucket, resized)

    def _place_small(self, size: Size) -> Placement:
        """Without enlarging: the image shrunk to the area if it is larger, cut to multiples of the step.

        A side never becomes zero: an image thinner than one step is enlarged to it.
        """
        width, height = size
        area = self.resolution[0] * self.resolution[1]
        if width * height > area:
            scale = math.sqrt(area / (width * height))
            width, height = self._nearer(width / height, width * scale, height * scale)
        scale = max(1.0, self.step / width, self.step / height)
        width, height = math.ceil(width * scale), math.ceil(height * scale)
        return Placement((width // self.step * self.step, height // self.step * self.step), (width, height))

    def _nearer(self, ratio: float, width: float, height: float) -> Size:
        """One side rounded to the step and the other following the ratio: whichever keeps the ratio better."""
        w = max(self.step, int(width + 0.5) // self.step * self.step)
        h = max(self.step, int(height + 0.5) // self.step * self.step)
        by_width, by_height = (w, max(1, int(w / ratio + 0.5))), (max(1, int(h * ratio + 0.5)), h)
        return min((by_width, by_height), key=lambda s: abs(s[0] / s[1] - ratio))


def limits(config: BucketConfig, resolution: Size, step: int) -> Size:
    """Smallest and largest side, rounded to the step: kohya's 256 and 1024, or a half to twice a small resolution."""
    small, large = min(resolution), max(resolution)
    low = config.min or (min(256, small) if small >= 256 else small // 2)
    high = config.max or max(1024 if small >= 256 else 0, 2 * large)
    return max(step, low // step * step), math.ceil(high / step) * step


def predefined(resolution: Size, low: int, high: int, step: int) -> tuple[Size, ...]:
    """All sizes of at most the resolution's area with sides in [low, high], as kohya lists them."""
    area = resolution[0] * resolution[1]
    square = max(step, math.isqrt(area) // step * step)
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))

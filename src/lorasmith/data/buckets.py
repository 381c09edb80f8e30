"""Aspect-ratio buckets, by kohya's rules: sizes of about the same area, each image in the one nearest in shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lorasmith.data.config import BucketConfig
from lorasmith.data.placement import Placement, Size, covering_size


@dataclass(frozen=True)
class Buckets:
    """The bucket sizes of one resolution, and the rule that assigns images to them."""

    resolution: Size
    sizes: tuple[Size, ...]
    step: int
    upscale: bool = True

    @classmethod
    def of(cls, resolution: Size, config: BucketConfig) -> Buckets:
        """The buckets of a config; settings that it leaves open follow from the resolution."""
        step = config.step or (64 if min(resolution) >= 256 else 16)
        if not config.enabled:
            return cls(resolution, (resolution,), step)
        low, high = side_limits(config, resolution, step)
        return cls(resolution, bucket_sizes(resolution, low, high, step), step, config.upscale)

    def place(self, size: Size) -> Placement:
        """The placement of an image of `size`."""
        if not self.upscale:
            return self._place_without_upscaling(size)
        width, height = size
        # An image that has the size of a bucket is not resized, even if another bucket has the same ratio.
        bucket = size
        if bucket not in self.sizes:
            bucket = nearest_in_ratio(self.sizes, width / height)
        # The image covers the bucket: one side fits exactly, the other is cropped.
        scale = max(bucket[0] / width, bucket[1] / height)
        return Placement(bucket, covering_size(size, scale, bucket))

    def _place_without_upscaling(self, size: Size) -> Placement:
        """An image larger than the resolution's area is shrunk to it; the bucket is the size cut to multiples of
        `step`.

        A side never becomes zero: an image thinner than one step is enlarged to it.
        """
        width, height = size
        area = self.resolution[0] * self.resolution[1]
        if width * height > area:
            scale = math.sqrt(area / (width * height))
            width, height = self._round_one_side(width / height, width * scale, height * scale)
        scale = max(1.0, self.step / width, self.step / height)
        resized = math.ceil(width * scale), math.ceil(height * scale)
        bucket = self._floor(resized[0]), self._floor(resized[1])
        return Placement(bucket, resized)

    def _round_one_side(self, ratio: float, width: float, height: float) -> Size:
        """One side rounded to the step and the other computed from the ratio: the choice that keeps the ratio
        better."""
        rounded_width = max(self.step, self._floor(int(width + 0.5)))
        rounded_height = max(self.step, self._floor(int(height + 0.5)))
        height_for_width = max(1, int(rounded_width / ratio + 0.5))
        width_for_height = max(1, int(rounded_height * ratio + 0.5))
        by_width = (rounded_width, height_for_width)
        by_height = (width_for_height, rounded_height)
        return min((by_width, by_height), key=lambda size: abs(size[0] / size[1] - ratio))

    def _floor(self, side: int) -> int:
        """The largest multiple of the step that is not larger than a side."""
        return side // self.step * self.step


def nearest_in_ratio(sizes: Iterable[Size], ratio: float) -> Size:
    """The size whose ratio of width to height is nearest; of equally near ones the smallest."""

    def distance(size: Size) -> tuple[float, Size]:
        return abs(size[0] / size[1] - ratio), size

    return min(sizes, key=distance)


def side_limits(config: BucketConfig, resolution: Size, step: int) -> tuple[int, int]:
    """Smallest and largest side, rounded to the step. Automatic: kohya's 256 and 1024, or half to twice the resolution
    if that is below 256."""
    small, large = min(resolution), max(resolution)
    low = config.min or (min(256, small) if small >= 256 else small // 2)
    high = config.max or max(1024 if small >= 256 else 0, 2 * large)
    return max(step, low // step * step), math.ceil(high / step) * step


def bucket_sizes(resolution: Size, low: int, high: int, step: int) -> tuple[Size, ...]:
    """All sizes of at most the resolution's area with sides in [low, high], as kohya lists them."""
    area = resolution[0] * resolution[1]
    square = max(step, math.isqrt(area) // step * step)
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))

"""Images at a random position on a black canvas: whole, or the upper part of a portrait."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Literal

from pydantic import Field, model_validator

from lorasmith.core.rng import python_random
from lorasmith.data.placement import Crop, Placement, Size
from lorasmith.data.transforms.base import ImageTransform, Sample


class Letterbox(ImageTransform):
    """Fits an image into its bucket, shrunk by a factor in `scale`, and puts it at a random position on black.

    Before that, with probability `crop`, the image is cropped: with `upper`, an image taller than the bucket loses its
    lower part, down to a height between the bucket's and its own, which keeps heads; otherwise it is cropped to the
    shape of the bucket at a random position. The loss does not count in the black area. Without buckets
    (`buckets.enabled = false`) these are Mix-of-Show's HumanResizeCropFinalV3 (`upper`) and ResizeFillMaskNew
    (`scale`), which support squares of 512 only.
    """

    kind: Literal["letterbox"] = "letterbox"
    crop: float = Field(default=0.5, ge=0, le=1)
    upper: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    kept: int = Field(default=0, ge=0)
    """Number of variants of each image, whose latents are then cached; 0: a new variant in each view, encoded in each
    step."""

    @model_validator(mode="after")
    def _in_order(self) -> Letterbox:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale is [{self.scale[0]:g}, {self.scale[1]:g}]; give two numbers in ascending order, above 0 and at "
                "most 1"
            )
        return self

    @property
    def variants(self) -> int | None:
        return self.kept or None

    @property
    def cuts(self) -> bool:
        return True

    def cut(self, path: Path, size: Size, place: Placement, variant: int) -> Crop:
        random = python_random(0, "letterbox", path.name, variant)
        bucket = place.bucket

        # The part that stays visible, in pixels of an image that just covers the bucket.
        cover_scale = max(bucket[0] / size[0], bucket[1] / size[1])
        covering_width = max(bucket[0], round(size[0] * cover_scale))
        covering_height = max(bucket[1], round(size[1] * cover_scale))
        covering = (covering_width, covering_height)
        left, top, width, height = self._visible_part(covering, bucket, random)

        # Shrink that part into the bucket; everything below is in pixels of the shrunk image.
        factor = fit_factor((width, height), bucket, leave_border=self.upper)
        factor *= random.uniform(*self.scale)
        visible_width = max(1, int(width * factor + 1e-6))
        visible_height = max(1, int(height * factor + 1e-6))
        x, y = round(left * factor), round(top * factor)
        # Rounding must not cut the visible part off.
        resized_width = max(x + visible_width, round(covering_width * factor))
        resized_height = max(y + visible_height, round(covering_height * factor))

        # The bucket may lie anywhere around the visible part.
        box_left = x - random.randint(0, bucket[0] - visible_width)
        box_top = y - random.randint(0, bucket[1] - visible_height)
        box = (box_left, box_top, box_left + bucket[0], box_top + bucket[1])
        seen = (x, y, x + visible_width, y + visible_height)
        return Crop((resized_width, resized_height), box, seen)

    def _visible_part(self, covering: Size, bucket: Size, random: Random) -> tuple[int, int, int, int]:
        """Left, top, width and height of what stays of an image that covers the bucket."""
        # Drawn even where it cannot matter, so that the draws after it stay the same.
        if random.random() >= self.crop:
            return (0, 0, *covering)
        room_x, room_y = covering[0] - bucket[0], covering[1] - bucket[1]
        if self.upper and room_y > 0:
            return (0, 0, covering[0], bucket[1] + random.randint(0, room_y))
        return (random.randint(0, room_x), random.randint(0, room_y), *bucket)

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample


def fit_factor(size: Size, bucket: Size, leave_border: bool) -> float:
    """The factor by which `size` fits into the bucket. With `leave_border`, a size that would fill it is one pixel
    smaller."""
    factor = min(bucket[0] / size[0], bucket[1] / size[1])
    if leave_border:
        # The side that would fill the bucket ends one pixel before; the other may have ended earlier already.
        by_width = (bucket[0] - 1) / size[0]
        by_height = (bucket[1] - 1) / size[1]
        factor = min(factor, max(by_width, by_height))
    return factor

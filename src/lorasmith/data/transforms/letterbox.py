"""Images at any place of a black canvas: whole, or the upper part of a portrait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lorasmith.core.rng import python_random
from lorasmith.data.transforms.base import Cut, ImageTransform, Sample

if TYPE_CHECKING:
    from random import Random

    from lorasmith.data.buckets import Placement

Size = tuple[int, int]


class Letterbox(ImageTransform):
    """Fits an image into its bucket, shrunk by a factor in `scale`, and puts it anywhere on black.

    Before that, with probability `crop`, it is cut: with `upper`, an image taller than the bucket loses what is below a
    height between the bucket's and its own, which keeps heads; else it is cut to the bucket's shape somewhere. The
    black does not count in the loss. Without buckets (`buckets.enabled = false`) these are Mix-of-Show's
    HumanResizeCropFinalV3 (`upper`) and ResizeFillMaskNew (`scale`), which know squares of 512 only.
    """

    kind: Literal["letterbox"] = "letterbox"
    crop: float = Field(default=0.5, ge=0, le=1)
    upper: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    kept: int = Field(default=0, ge=0)
    """So many forms of each image, whose latents are then cached; 0: a new one in each view, encoded anew."""

    @model_validator(mode="after")
    def _in_order(self) -> Letterbox:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is [{self.scale[0]:g}, {self.scale[1]:g}]; give two in order, above 0, up to 1")
        return self

    @property
    def variants(self) -> int | None:
        return self.kept or None

    @property
    def cuts(self) -> bool:
        return True

    def cut(self, path: Path, size: Size, place: Placement, variant: int) -> Cut:
        random = python_random(0, "letterbox", path.name, variant)
        bucket = place.bucket
        cover = max(bucket[0] / size[0], bucket[1] / size[1])
        covering = max(bucket[0], round(size[0] * cover)), max(bucket[1], round(size[1] * cover))
        left, top, width, height = self.part(covering, bucket, random)
        largest = fitting((width, height), bucket, less=self.upper) * random.uniform(*self.scale)
        seen = max(1, int(width * largest + 1e-6)), max(1, int(height * largest + 1e-6))
        x, y = round(left * largest), round(top * largest)
        resized = max(x + seen[0], round(covering[0] * largest)), max(y + seen[1], round(covering[1] * largest))
        at = x - random.randint(0, bucket[0] - seen[0]), y - random.randint(0, bucket[1] - seen[1])
        box = (at[0], at[1], at[0] + bucket[0], at[1] + bucket[1])
        return Cut(resized, box, (x, y, x + seen[0], y + seen[1]))

    def part(self, covering: Size, bucket: Size, random: Random) -> tuple[int, int, int, int]:
        """Left, top, width and height of what is left of an image that has been enlarged to cover the bucket."""
        if random.random() >= self.crop:
            return (0, 0, *covering)
        room = covering[0] - bucket[0], covering[1] - bucket[1]
        if self.upper and room[1] > 0:
            return (0, 0, covering[0], bucket[1] + random.randint(0, room[1]))
        return (random.randint(0, room[0]), random.randint(0, room[1]), *bucket)

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample


def fitting(size: Size, bucket: Size, less: bool) -> float:
    """The factor by which `size` fits into the bucket; with `less`, one that would fill it ends a pixel before."""
    factor = min(bucket[0] / size[0], bucket[1] / size[1])
    short = max((bucket[0] - 1) / size[0], (bucket[1] - 1) / size[1])
    return min(factor, short) if less else factor

"""Crops around faces whose places stand in the file names."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lorasmith.core.rng import python_random
from lorasmith.data.transforms.base import Cut, ImageTransform, Sample

if TYPE_CHECKING:
    from lorasmith.data.buckets import Placement

FACE = re.compile(r"_(\d+)_(\d+)_(\d+)_(\d+)$")
"""The end of a name with a face: its centre, width and height."""


class FaceCrop(ImageTransform):
    """A crop around the face that `name_x_y_w_h.png` tells of: the face's centre and size in pixels of the image.

    Its shorter side is `closest` to `widest` times the face's larger one, as far as the image reaches and without
    enlarging more than the bucket needs. Images without a face in their name are left to other transforms. The rule is
    sd-scripts' `face_crop_aug_range`; here it works with buckets too.
    """

    kind: Literal["face_crop"] = "face_crop"
    closest: float = Field(default=2.0, gt=0)
    widest: float = Field(default=4.0, gt=0)
    wander: bool = False
    """Let the face be anywhere in the crop, though likelier near its middle; else only a little beside it."""
    kept: int = Field(default=8, ge=0)
    """So many crops of each image, whose latents are then cached; 0: a new one in each view, encoded anew."""

    @model_validator(mode="after")
    def _in_order(self) -> FaceCrop:
        if self.closest > self.widest:
            raise ValueError(f"closest ({self.closest:g}) is larger than widest ({self.widest:g})")
        return self

    @property
    def variants(self) -> int | None:
        return self.kept or None

    @property
    def cuts(self) -> bool:
        return True

    def cut(self, path: Path, size: tuple[int, int], place: Placement, variant: int) -> Cut | None:
        found = FACE.search(path.stem)
        if found is None or not int(found[3]) or not int(found[4]):
            return None
        x, y, width, height = (int(n) for n in found.groups())
        random = python_random(0, "face_crop", path.name, variant)
        face, bucket = max(width, height), place.bucket
        whole = max(bucket[0] / size[0], bucket[1] / size[1])
        far, near = (min(1.0, min(bucket) / (face * times)) for times in (self.widest, self.closest))
        scale = random.uniform(max(whole, far), max(whole, near))
        resized = max(bucket[0], int(size[0] * scale + 0.5)), max(bucket[1], int(size[1] * scale + 0.5))
        left, top = (
            self.start(int(centre * scale + 0.5), (bucket[i], resized[i]), face, random)
            for i, centre in enumerate((x, y))
        )
        return Cut(resized, (left, top, left + bucket[0], top + bucket[1]))

    def remark(self, path: Path) -> str:
        return "" if FACE.search(path.stem) else "has no face in its name (name_x_y_w_h), so it is not cropped to one"

    def start(self, centre: int, sides: tuple[int, int], face: int, random: Random) -> int:
        """Where the crop begins on one axis. `sides`: of the crop and of the resized image; `face`: its size."""
        side, whole = sides
        shift = 0
        if self.wander:
            reach = max(whole - centre, centre)
            shift = random.randint(0, reach) + random.randint(0, reach) - reach
        elif self.closest < self.widest and face > side // 10 and face >= 40:
            shift = random.randint(-(face // 20), face // 20)
        return max(0, min(centre - side // 2 + shift, whole - side))

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample

"""Crops around faces whose positions are given in the file names."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Literal

from pydantic import Field, model_validator

from lorasmith.core.rng import python_random
from lorasmith.data.face_names import FACE
from lorasmith.data.placement import Crop, Placement, Size, covering_size
from lorasmith.data.transforms.base import ImageTransform, Sample


class FaceCrop(ImageTransform):
    """A crop around the face that a file name such as `name_x_y_w_h.png` gives: the centre and the size of the face in
    pixels of the image.

    The shorter side of the crop is `closest` to `widest` times the longer side of the face, as far as the image
    reaches and without enlarging it more than the bucket needs. Images without a face in their name are left to other
    transforms. The rule is that of sd-scripts' `face_crop_aug_range`; here it works with buckets too.
    """

    kind: Literal["face_crop"] = "face_crop"
    closest: float = Field(default=2.0, gt=0)
    widest: float = Field(default=4.0, gt=0)
    wander: bool = False
    """The face may be anywhere in the crop, more often near its middle; if off, it is only slightly off-centre."""
    kept: int = Field(default=8, ge=0)
    """Number of crops of each image, whose latents are then cached; 0: a new crop in each view, encoded in each
    step."""

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

    def cut(self, path: Path, size: Size, place: Placement, variant: int) -> Crop | None:
        match = FACE.search(path.stem)
        if match is None:
            return None
        x, y, face_width, face_height = (int(number) for number in match.groups())
        if face_width == 0 or face_height == 0:
            return None
        random = python_random(0, "face_crop", path.name, variant)
        face = max(face_width, face_height)
        (width, height), bucket = size, place.bucket

        # The face fills between 1 / widest and 1 / closest of the crop, but the image must cover the bucket.
        cover_scale = max(bucket[0] / width, bucket[1] / height)
        far_scale = min(1.0, min(bucket) / (face * self.widest))
        near_scale = min(1.0, min(bucket) / (face * self.closest))
        scale = random.uniform(max(cover_scale, far_scale), max(cover_scale, near_scale))
        resized = covering_size(size, scale, bucket)

        centre_x, centre_y = int(x * scale + 0.5), int(y * scale + 0.5)
        left = self._crop_start(centre_x, bucket[0], resized[0], face, random)
        top = self._crop_start(centre_y, bucket[1], resized[1], face, random)
        return Crop(resized, (left, top, left + bucket[0], top + bucket[1]))

    def _crop_start(self, centre: int, crop_side: int, image_side: int, face: int, random: Random) -> int:
        """Where the crop begins along one axis, in pixels of the resized image; `centre` is the face's."""
        shift = 0
        if self.wander:
            # The sum of two draws: places near the middle are more likely.
            reach = max(image_side - centre, centre)
            shift = random.randint(0, reach) + random.randint(0, reach) - reach
        elif self.closest < self.widest and face > crop_side // 10 and face >= 40:
            shift = random.randint(-(face // 20), face // 20)
        return max(0, min(centre - crop_side // 2 + shift, image_side - crop_side))

    def remark(self, path: Path) -> str:
        if FACE.search(path.stem):
            return ""
        return "has no face in its name (name_x_y_w_h), so it is not cropped to one"

    def apply(self, sample: Sample, variant: int) -> Sample:
        return sample

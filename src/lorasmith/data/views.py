"""One view of an image: where it is placed, and which variant of each image transform it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from lorasmith.data.buckets import Placement
from lorasmith.data.pixels import crop_share, read_sample
from lorasmith.data.scan import ImageRecord
from lorasmith.data.transforms import ImageTransform


@dataclass(frozen=True)
class View:
    """An image as a batch sees it; `variant` has one number for each transform."""

    record: ImageRecord
    place: Placement
    transforms: tuple[ImageTransform, ...]
    variant: tuple[int, ...]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The crop of the resized image: left, top, right, bottom."""
        return self.place.box(crop_share(self.transforms, self.variant))

    def read(self) -> dict[str, Tensor]:
        """`pixels` (3, H, W) in -1..1 and, if the image has a mask, `mask` (1, H / 8, W / 8)."""
        return read_sample(self.record, self.place, self.transforms, self.variant)

    def causes(self) -> dict[str, Any]:
        """Everything that decides what `read` gives. A transform that only places the crop is in the box."""
        pairs = zip(self.transforms, self.variant, strict=True)
        return {
            "image": self.record.digest,
            "place": [self.place.resized, self.box],
            "changes": [[t.model_dump(mode="json"), v] for t, v in pairs if t.share(v) is None],
            "mask": self.record.mask_digest or self.record.mask,
        }


def variants(transforms: Sequence[ImageTransform]) -> Iterator[tuple[int, ...]]:
    """Every combination of variants."""
    return product(*(range(t.variants) for t in transforms))

"""One view of an image: where it is placed, and which variant of each image transform it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from lorasmith.data.buckets import Placement
from lorasmith.data.pixels import read_sample
from lorasmith.data.scan import ImageRecord
from lorasmith.data.transforms import Cut, ImageTransform


@dataclass(frozen=True)
class View:
    """An image as a batch sees it; `variant` has one number for each transform."""

    record: ImageRecord
    place: Placement
    transforms: tuple[ImageTransform, ...]
    variant: tuple[int, ...]

    @property
    def cut(self) -> Cut:
        """What of the image is seen: the centre, unless a transform says otherwise; the first one counts."""
        size = self.record.size
        pairs = zip(self.transforms, self.variant, strict=True)
        cuts = (t.cut(self.record.path, size, self.place, v) for t, v in pairs)
        return next((cut for cut in cuts if cut is not None), Cut(self.place.resized, self.place.box()))

    def read(self) -> dict[str, Tensor]:
        """`pixels` (3, H, W) in -1..1; `mask`, `filled` (1, H / 8, W / 8), `concepts` (N, ...), if they are there."""
        return read_sample(self.record, self.cut, self.transforms, self.variant)

    def causes(self) -> dict[str, Any]:
        """Everything that decides what `read` gives. A transform that only places the crop is in the cut."""
        pairs = zip(self.transforms, self.variant, strict=True)
        cut = self.cut
        concepts = [digest for _, _, digest in self.record.concept_masks]
        return {
            **({"concepts": concepts} if concepts else {}),
            "image": self.record.digest,
            "resize": self.record.resize,
            "place": [cut.resized, cut.box, cut.seen],
            "changes": [[t.model_dump(mode="json"), v] for t, v in pairs if not t.cuts],
            "mask": self.record.mask_digest or self.record.mask,
        }


def variants(transforms: Sequence[ImageTransform]) -> Iterator[tuple[int, ...]]:
    """Every combination of variants; of transforms that have countless ones, none may be among them."""
    return product(*(range(t.variants or 0) for t in transforms))

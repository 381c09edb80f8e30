"""Where an image lies in its bucket: sizes and crop boxes, in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = tuple[int, int]
"""(width, height)."""

Box = tuple[int, int, int, int]
"""(left, top, right, bottom); right and bottom are exclusive."""


def covering_size(size: Size, scale: float, bucket: Size) -> Size:
    """`size` times `scale`, rounded, and not smaller than the bucket on either side."""
    # Rounded half up, as sd-scripts does; Python's `round` goes to the even number.
    width = int(size[0] * scale + 0.5)
    height = int(size[1] * scale + 0.5)
    return max(bucket[0], width), max(bucket[1], height)


@dataclass(frozen=True)
class Placement:
    """The bucket of an image, and the size that the image is resized to before it is cropped to the bucket."""

    bucket: Size
    resized: Size

    def box(self, position: float = 0.5) -> Box:
        """The crop box. `position`, 0 to 1, says where it lies in the image: 0.5 is the centre."""
        (bucket_width, bucket_height), (width, height) = self.bucket, self.resized
        left = math.floor((width - bucket_width) * position)
        top = math.floor((height - bucket_height) * position)
        return (left, top, left + bucket_width, top + bucket_height)

    @property
    def lost(self) -> float:
        """The share of the resized image that the crop cuts off, 0 to 1."""
        bucket_area = self.bucket[0] * self.bucket[1]
        return 1 - bucket_area / (self.resized[0] * self.resized[1])


@dataclass(frozen=True)
class Crop:
    """The part of an image that is trained on.

    The image is resized to `resized` and cropped to `box`, which has the size of the bucket. Where the box reaches
    beyond the image, or beyond the box `seen` (in the same coordinates), the result is black.
    """

    resized: Size
    box: Box
    seen: Box | None = None

    def filled(self) -> NDArray[np.float32] | None:
        """(H, W) of the bucket: 1 where the image is visible, 0 where the crop is black; None without black parts."""
        if self.seen is None:
            return None
        import numpy as np

        left, top, right, bottom = self.box
        seen_left, seen_top, seen_right, seen_bottom = self.seen
        # In coordinates of the crop. Negative ones would count from the other side.
        rows = slice(max(0, seen_top - top), max(0, seen_bottom - top))
        columns = slice(max(0, seen_left - left), max(0, seen_right - left))
        filled = np.zeros((bottom - top, right - left), dtype=np.float32)
        filled[rows, columns] = 1
        return filled

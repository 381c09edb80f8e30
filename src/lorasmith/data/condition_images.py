"""The pictures of conditions: read with their images, cut as these are, and put together as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import F, torch
from lorasmith.data.mask_files import require_same_aspect

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

PREFIX = "condition."
"""Begins the names of the tensors of conditions, in caches and in a `Conditioning`."""


@dataclass(frozen=True)
class ConditionInput:
    """What the data must know of a condition: its `name`, the side of an image in pixels divided by that of the
    condition's tensor (`scale`), and the `empty` value, 0..1, of an image that has no picture."""

    name: str
    scale: int
    empty: float = 0.0

    @property
    def tensor_name(self) -> str:
        """The name of its tensor."""
        return f"{PREFIX}{self.name}"

    def empty_batch(self, count: int, height: int, width: int) -> Tensor:
        """(count, 3, height / scale, width / scale) of the empty value; height and width in pixels."""
        return torch.full((count, 3, height // self.scale, width // self.scale), self.empty)


def decode_condition_image(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The bytes of a picture in RGB, in `size`, the (width, height) of its image.

    Raises ValueError if it is not a picture or its aspect ratio differs from the image's.
    """
    from PIL import Image

    from lorasmith.data.images import decode

    picture, _ = decode(data)
    require_same_aspect("picture of a condition", picture.size, size)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def shrink(pixels: Tensor, scale: int) -> Tensor:
    """(3, H, W) uint8 to (3, H / scale, W / scale) uint8, the mean over each area."""
    return F.avg_pool2d(pixels[None].float(), scale)[0].round().to(torch.uint8)


def condition_batch(
    samples: Sequence[Mapping[str, Tensor]], inputs: Sequence[ConditionInput], size: tuple[int, int]
) -> dict[str, Tensor]:
    """For each condition, by the name of its tensor, (B, 3, h, w) in 0..1. `size`: height and width in pixels."""
    batch: dict[str, Tensor] = {}
    for condition in inputs:
        values = condition.empty_batch(len(samples), *size)
        for index, sample in enumerate(samples):
            pixels = sample.get(condition.tensor_name)
            if pixels is not None:
                values[index] = pixels.float() / 255
        batch[condition.tensor_name] = values
    return batch

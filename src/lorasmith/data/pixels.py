"""From an image file to tensors: decoded, placed, changed, scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.data.buckets import Placement
from lorasmith.data.images import fit, read
from lorasmith.data.masks import mask_image, to_latent
from lorasmith.data.scan import ImageRecord
from lorasmith.data.transforms import ImageTransform
from lorasmith.data.transforms.base import Sample

DOWNSCALE = 8


def read_sample(
    record: ImageRecord, place: Placement, transforms: Sequence[ImageTransform], variant: Sequence[int]
) -> dict[str, Tensor]:
    """`pixels` (3, H, W) in -1..1 and, if the image has a mask, `mask` (1, H / 8, W / 8).

    Raises LorasmithError if the file changed so that it cannot be read any more.
    """
    try:
        picture, alpha = read(record.path)
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{record.path}: cannot be read any more ({error})") from None
    box = place.box(crop_share(transforms, variant))
    grey = mask_image(record, picture.size, alpha)
    mask = None if grey is None else (fit(grey, place.resized, box) / 255).astype(np.float32)
    sample = Sample(fit(picture, place.resized, box), mask)
    for transform, chosen in zip(transforms, variant, strict=True):
        sample = transform.apply(sample, chosen)
    pixels = torch.from_numpy(sample.pixels).permute(2, 0, 1).float() / 127.5 - 1
    result = {"pixels": pixels.contiguous()}
    if sample.mask is not None:
        result["mask"] = to_latent(sample.mask, DOWNSCALE)
    return result


def crop_share(transforms: Sequence[ImageTransform], variant: Sequence[int]) -> float:
    """How far along its room the crop lies: the centre, unless a transform says otherwise."""
    for transform, chosen in zip(transforms, variant, strict=True):
        share = getattr(transform, "share", None)
        if share is not None:
            return share(chosen)
    return 0.5

"""Masks: where the loss counts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.data.scan import ImageRecord


def mask_image(record: ImageRecord, size: tuple[int, int], alpha: Image.Image | None) -> Image.Image | None:
    """The mask of an image as a grey picture of `size` (the image's); white counts. None if it has none.

    Raises LorasmithError if a mask file has another shape than its image.
    """
    if record.mask is None:
        return None
    if record.mask == "alpha":
        return alpha if alpha is not None else Image.new("L", size, 255)
    with Image.open(record.mask) as opened:
        mask = opened.convert("L")
    if abs(mask.width / mask.height - size[0] / size[1]) > 0.01:
        raise LorasmithError(
            f"{record.mask}: a mask of {mask.width} x {mask.height} for an image of {size[0]} x {size[1]}; "
            "they must have the same shape"
        )
    return mask.resize(size, Image.Resampling.BOX) if mask.size != size else mask


def to_latent(mask: NDArray[np.float32], downscale: int) -> Tensor:
    """(H, W) in 0..1 to (1, H / downscale, W / downscale), by area."""
    return F.avg_pool2d(torch.from_numpy(mask)[None, None], downscale)[0]

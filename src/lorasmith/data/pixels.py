"""From an image file to tensors: decoded, placed, changed, scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.data.images import decode, fit
from lorasmith.data.masks import decode_mask, to_latent
from lorasmith.data.scan import ImageRecord
from lorasmith.data.transforms import Cut, ImageTransform
from lorasmith.data.transforms.base import Sample

DOWNSCALE = 8


def read_sample(
    record: ImageRecord, cut: Cut, transforms: Sequence[ImageTransform], variant: Sequence[int]
) -> dict[str, Tensor]:
    """`pixels` (3, H, W) in -1..1; `mask` (1, H / 8, W / 8) in 0..1 if the image has one; `filled`, of the same shape,
    where the image is, if black surrounds it; `concepts` (N, H / 8, W / 8), masks of concepts, if it has any.

    Raises LorasmithError if the file is not the one that was scanned any more.
    """
    picture, alpha = decode(same_bytes(record.path, record.digest))
    grey: Image.Image | None = None
    if record.mask == "alpha":
        grey = alpha
    elif record.mask is not None:
        grey = decode_mask(same_bytes(Path(record.mask), record.mask_digest), picture.size)
    own = [decode_mask(same_bytes(path, digest), picture.size) for _, path, digest in record.concept_masks]
    mask = None if grey is None else placed(grey, cut)
    concepts = np.stack([placed(one, cut) for one in own], -1) if own else None
    sample = framed(Sample(fit(picture, cut.resized, cut.box, record.resize), mask, cut.filled(), concepts))
    for transform, chosen in zip(transforms, variant, strict=True):
        sample = transform.apply(sample, chosen)
    pixels = torch.from_numpy(sample.pixels).permute(2, 0, 1).float() / 127.5 - 1
    result = {"pixels": pixels.contiguous()}
    for name, places in (("mask", sample.mask), ("filled", sample.filled), ("concepts", sample.concepts)):
        if places is not None:
            result[name] = to_latent(places, DOWNSCALE)
    return result


def placed(mask: Image.Image, cut: Cut) -> NDArray[np.float32]:
    """(H, W) in 0..1: what a cut sees of a mask."""
    return (fit(mask, cut.resized, cut.box) / 255).astype(np.float32)


def framed(sample: Sample) -> Sample:
    """Black, and outside of all masks, where the image is not."""
    if sample.filled is None:
        return sample
    mask = None if sample.mask is None else sample.mask * sample.filled
    concepts = None if sample.concepts is None else sample.concepts * sample.filled[..., None]
    return Sample(sample.pixels * sample.filled[..., None].astype(np.uint8), mask, sample.filled, concepts)


def same_bytes(path: Path, digest: str) -> bytes:
    """A file's bytes, if they are still those of `digest`: nothing may be kept under the name of something else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read any more ({error.strerror or error})") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise LorasmithError(f"{path}: it was changed after the data were read; start again")
    return data

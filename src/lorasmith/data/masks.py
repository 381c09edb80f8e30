"""Masks: files that say where the loss counts or where a concept is, and masks of a batch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageChops
from torch import Tensor

from lorasmith.data.images import decode

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
ASPECT_TOLERANCE = 0.01
"""By what share the aspect ratio of a mask may differ from its image's."""

MASK_NAME = re.compile(r"(.+?)(?:[-_. ]mask|-masklabel|-condlabel)", re.IGNORECASE)
"""The stem of a mask beside its image, as other trainers name them: `1-masklabel`, `1.mask`, `1_mask`."""
MASK_MARKERS = ("-masklabel", "-mask", "_mask", ".mask")
MASK_FOLDERS = frozenset({"mask", "masks"})
"""Names of folders below images in which pictures with the names of the images are masks."""

SampleTensors = Mapping[str, Tensor]
"""The tensors of one image in a batch, as `View.read` gives them or the latent cache holds them."""


def find_mask(image: Path, folder: Path) -> Path | None:
    """The file in `folder` with the same stem as the image, or None. In the folder of the images themselves it is
    `1-masklabel.png`, `1-mask.png`, `1_mask.png` or `1.mask.png`."""
    markers = MASK_MARKERS if folder == image.parent else ("", *MASK_MARKERS)
    paths = (folder / f"{image.stem}{marker}{suffix}" for marker in markers for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def masked_stem(stem: str) -> str | None:
    """The stem of the image that a mask with this stem belongs to; None if the name is not that of a mask."""
    match = MASK_NAME.fullmatch(stem)
    return None if match is None else match[1]


def decode_mask(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The bytes of a mask file as a grey picture (L) of `size`, the (width, height) of its image. White counts, black
    and transparent do not.

    Raises ValueError if it is not a picture or its aspect ratio differs from the image's.
    """
    picture, alpha = decode(data)
    grey = picture.convert("L")
    # Programs write masks as grey pictures or as the transparency of a white one; both work this way.
    if alpha is not None:
        grey = ImageChops.multiply(grey, alpha)
    image_ratio = size[0] / size[1]
    # Masks may be smaller than their images, rounded to whole pixels.
    if abs(grey.width / grey.height - image_ratio) > ASPECT_TOLERANCE * image_ratio:
        raise ValueError(
            f"the mask has {grey.width} x {grey.height} pixels, its image {size[0]} x {size[1]}; "
            "both must have the same aspect ratio"
        )
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BOX)


def to_latent_grid(mask: NDArray[np.float32], downscale: int) -> Tensor:
    """(H, W) in 0..1 to (1, H / downscale, W / downscale), the mean over each area; (H, W, N) to (N, ...)."""
    channels_last = mask if mask.ndim == 3 else mask[..., None]
    channels_first = torch.from_numpy(channels_last).permute(2, 0, 1)
    return F.avg_pool2d(channels_first[None], downscale)[0]


def loss_mask(samples: Sequence[SampleTensors], weigh: Sequence[bool], shape: tuple[int, int]) -> Tensor | None:
    """Where the loss counts, (B, 1, h, w) in 0..1; None if it counts everywhere.

    `weigh`: for each image, whether the loss counts in its mask alone; `shape`: (h, w) of the latents. Around an image
    that does not fill its bucket the loss never counts.
    """
    masks = [
        _subject_of(sample) if masks_weigh else sample.get("filled")
        for sample, masks_weigh in zip(samples, weigh, strict=True)
    ]
    return _stack_or_none(masks, shape)


def subject_mask(samples: Sequence[SampleTensors], shape: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """Where the subject is, or at least the image: (B, 1, h, w) in 0..1, and (B,) with 1 for images of which that is
    known. Both are None if it is known of none."""
    masks = [_subject_of(sample) for sample in samples]
    stacked = _stack_or_none(masks, shape)
    if stacked is None:
        return None, None
    return stacked, torch.tensor([float(mask is not None) for mask in masks])


def concept_masks(
    samples: Sequence[SampleTensors], concepts: Sequence[Sequence[str]], names: Sequence[str], shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where each concept of `names` is, (B, names, h, w), and (B, names) with 1 where that is known.

    `concepts`: for each image, the concepts that it has masks of, in the order of its tensor `concepts`; for others
    the image's own mask is used.
    """
    ones = torch.ones(1, *shape)  # stands in where no mask is known
    masks: list[Tensor] = []
    known: list[list[float]] = []
    for sample, image_concepts in zip(samples, concepts, strict=True):
        # Not every image has a mask of every concept.
        by_name = {name: sample["concepts"][i][None] for i, name in enumerate(image_concepts)}
        row = [by_name.get(name, _subject_of(sample)) for name in names]
        masks.append(torch.cat([ones if mask is None else mask for mask in row]))
        known.append([float(mask is not None) for mask in row])
    return torch.stack(masks), torch.tensor(known)


def _subject_of(sample: SampleTensors) -> Tensor | None:
    """The image's mask, else where the image fills its bucket; None if neither is there."""
    return sample.get("mask", sample.get("filled"))


def _stack_or_none(masks: Sequence[Tensor | None], shape: tuple[int, int]) -> Tensor | None:
    """(B, 1, h, w), with ones for images without a mask; None if no image has one."""
    if all(mask is None for mask in masks):
        return None
    ones = torch.ones(1, *shape)
    return torch.stack([ones if mask is None else mask for mask in masks])

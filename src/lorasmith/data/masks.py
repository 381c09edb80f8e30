"""Masks: where the loss counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageChops
from torch import Tensor

from lorasmith.data.images import decode

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")


def mask_path(image: Path, folder: Path) -> Path | None:
    """The file in `folder` with the same stem as the image, or None."""
    paths = (folder / f"{image.stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def decode_mask(data: bytes, size: tuple[int, int]) -> Image.Image:
    """A mask file as a grey picture (L) of `size`, the (width, height) of its image; white counts, transparent not.

    Raises ValueError if it is no picture or has another shape than its image.
    """
    picture, alpha = decode(data)
    grey = picture.convert("L")
    if alpha is not None:
        grey = ImageChops.multiply(grey, alpha)
    if abs(grey.width / grey.height - size[0] / size[1]) > 0.01 * size[0] / size[1]:
        raise ValueError(
            f"a mask of {grey.width} x {grey.height} for an image of {size[0]} x {size[1]}; "
            "they must have the same shape"
        )
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BOX)


def to_latent(mask: NDArray[np.float32], downscale: int) -> Tensor:
    """(H, W) in 0..1 to (1, H / downscale, W / downscale), by area; (H, W, N) to (N, ...)."""
    masks = torch.from_numpy(mask if mask.ndim == 3 else mask[..., None])
    return F.avg_pool2d(masks.permute(2, 0, 1)[None], downscale)[0]


def masks_of(tensors: Sequence[Mapping[str, Tensor]], weigh: Sequence[bool], shape: tuple[int, int]) -> dict[str, Any]:
    """`mask`, `subject` and `masked` of a batch (see `Batch`), from what was read of its images.

    `weigh`: of which the loss counts in the mask alone; `shape`: (h, w) of the latents. Around an image that does not
    fill its bucket the loss never counts.
    """
    losses = [t.get("mask", t.get("filled")) if own else t.get("filled") for t, own in zip(tensors, weigh, strict=True)]
    subjects = [t.get("mask", t.get("filled")) for t in tensors]
    known = torch.tensor([float(subject is not None) for subject in subjects])
    masked = known if bool(known.any()) else None
    return {"mask": together(losses, shape), "subject": together(subjects, shape), "masked": masked}


def concept_masks_of(
    tensors: Sequence[Mapping[str, Tensor]], own: Sequence[Sequence[str]], names: Sequence[str], shape: tuple[int, int]
) -> dict[str, Any]:
    """`concept_masks`, `concept_masked` and `concept_names` of a batch (see `Batch`); empty without `names`.

    `own`: the concepts that each image has masks of, in the order of its tensor; the others take the image's own mask.
    """
    if not names:
        return {}
    rows = []
    for t, has in zip(tensors, own, strict=True):
        found = {name: t["concepts"][i][None] for i, name in enumerate(has)}
        rows.append([found.get(name, t.get("mask", t.get("filled"))) for name in names])
    ones = torch.ones(1, *shape)
    masks = torch.stack([torch.cat([ones if mask is None else mask for mask in row]) for row in rows])
    known = torch.tensor([[float(mask is not None) for mask in row] for row in rows])
    return {"concept_masks": masks, "concept_masked": known, "concept_names": tuple(names)}


def together(masks: Sequence[Tensor | None], shape: tuple[int, int]) -> Tensor | None:
    """(B, 1, h, w), with ones where there is no mask; None if there is none at all."""
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(1, *shape) if mask is None else mask for mask in masks])

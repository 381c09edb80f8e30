"""Masks of a batch: where the loss counts, and where each concept is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SampleTensors = Mapping[str, Tensor]
"""The tensors of one image in a batch, as `View.read` gives them or the latent cache holds them."""


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

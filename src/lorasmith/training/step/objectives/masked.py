"""The error of each sample as one number, where only a part of the image counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

MaskMean = Literal["mask", "image", "channel_sum"]


def over_mask(error: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the mask; a sample with an empty one gives 0."""
    if mask is None:
        return error.flatten(1).mean(1)
    weight = mask.expand_as(error).flatten(1)
    return (error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-6)


def over_image(error: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the whole image of the error in the mask: a small mask gives a small loss (sd-scripts)."""
    return (error if mask is None else error * mask).flatten(1).mean(1)


def summed_over_channels(error: Tensor, mask: Tensor | None) -> Tensor:
    """Summed over channels, the mean over the mask (Mix-of-Show, arXiv 2305.18292): with four channels, four times the
    mean, beside which a further term weighs a quarter."""
    return over_mask(error, mask) * error.shape[1]


MEANS: dict[MaskMean, Callable[[Tensor, Tensor | None], Tensor]] = {
    "mask": over_mask,
    "image": over_image,
    "channel_sum": summed_over_channels,
}


def mean_per_sample(error: Tensor, mask: Tensor | None, way: MaskMean = "mask") -> Tensor:
    """(B, C, h, w) to (B,). `mask`: (B, 1, h, w) in 0..1; None: everything counts."""
    return MEANS[way](error, mask)

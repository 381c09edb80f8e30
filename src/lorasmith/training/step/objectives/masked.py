"""The error of each sample as one number, where only a part of the image counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

MaskMean = Literal["mask", "image", "channel_sum"]


def mean_per_sample(error: Tensor, mask: Tensor | None, mean: MaskMean = "mask") -> Tensor:
    """(B, C, h, w) to (B,). `mask`: (B, 1, h, w) in 0..1; None: everything counts.

    `mask`: the mean over the mask; 0 for a sample whose mask is empty. `image`: the mean over the whole image of the
    error in the mask, so that a small mask gives a small loss (sd-scripts). `channel_sum`: summed over channels, the
    mean over the mask (Mix-of-Show, arXiv 2305.18292); with four channels this is four times the first, so that a
    further term of the loss weighs a quarter.
    """
    if mean == "image":
        masked = error if mask is None else error * mask
        return masked.flatten(1).mean(1)

    if mask is None:
        over_mask = error.flatten(1).mean(1)
    else:
        weight = mask.expand_as(error).flatten(1)
        over_mask = (error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
    return over_mask * error.shape[1] if mean == "channel_sum" else over_mask

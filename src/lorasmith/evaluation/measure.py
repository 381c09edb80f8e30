"""Text alignment, image alignment, and the nearest training images (Mix-of-Show, arXiv 2305.18292, section 6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.evaluation.base import Features

CLIPSCORE_SCALE = 2.5
"""The factor of CLIPScore (arXiv 2104.08718)."""


@dataclass(frozen=True)
class NearestImage:
    """A picture and the training image that is most similar to it."""

    picture: int
    """Index of the picture."""
    training: int
    """Index of the training image."""
    cosine: float


@dataclass(frozen=True)
class Measurement:
    """The scores of n pictures."""

    text: Tensor
    """(n,): cosine with the picture's text; NaN where there is no text."""
    image: Tensor
    """(n,): mean cosine with all training images."""
    copying: Tensor
    """(n,): cosine with the nearest training image."""
    nearest: tuple[NearestImage, ...]
    """The pictures that are most similar to a training image, in descending order."""


def measure(pictures: Features, texts: Tensor, training: Features, most: int = 8) -> Measurement:
    """Compare n pictures with their texts, vectors (n, k), and with the training images.

    `most`: the number of nearest images to list.
    """
    # vectors have length 1, so products are cosines
    cosines = pictures.image @ training.image.T
    best_cosine, best_image = cosines.max(1)
    nearest = []
    for index in best_cosine.argsort(descending=True)[:most].tolist():
        nearest.append(NearestImage(index, int(best_image[index]), float(best_cosine[index])))
    text_cosines = (pictures.text * texts).sum(-1)
    return Measurement(text_cosines, cosines.mean(1), best_cosine, tuple(nearest))


def text_alignment(cosines: Tensor) -> Tensor:
    """CLIPScore: 2.5 * max(cosine, 0)."""
    return CLIPSCORE_SCALE * cosines.clamp(min=0)


def highest_similarity(training: Features) -> float | None:
    """The highest cosine between two training images; None if there is only one. A picture that is nearer than this to
    a training image may be a copy."""
    if len(training.image) < 2:
        return None
    # the diagonal, each image with itself, is left out
    return float((training.image @ training.image.T).fill_diagonal_(-1).max())


def mean_score(values: Tensor, indices: Sequence[int] | None = None) -> float | None:
    """The mean of the values (at `indices`) that are not NaN; None if there are none."""
    selected = values if indices is None else values[list(indices)]
    known = selected[~torch.isnan(selected)]
    return float(known.mean()) if len(known) else None

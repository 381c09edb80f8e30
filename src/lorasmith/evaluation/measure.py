"""Text and image alignment, and how near pictures are to what was trained on (Mix-of-Show, arXiv 2305.18292, 6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.evaluation.base import Seen

SCALE = 2.5
"""Of CLIPScore (arXiv 2104.08718)."""


@dataclass(frozen=True)
class Near:
    """A picture and the training image that is most like it: their places and their cosine."""

    picture: int
    training: int
    cosine: float


@dataclass(frozen=True)
class Measured:
    """Of each picture: `text` (n,), its cosine with its prompt, NaN where there is none; `image` (n,), its mean cosine
    with all training images; and the pictures that are nearest to a training image, the nearest first."""

    text: Tensor
    image: Tensor
    nearest: tuple[Near, ...]


def measure(seen: Seen, texts: Tensor, training: Seen, most: int = 8) -> Measured:
    """`texts` (n, k): the vector of each picture's prompt."""
    cosines = seen.image @ training.image.T
    highest = cosines.max(1)
    order = highest.values.argsort(descending=True)[:most].tolist()
    near = tuple(Near(i, int(highest.indices[i]), float(highest.values[i])) for i in order)
    return Measured((seen.text * texts).sum(-1), cosines.mean(1), near)


def text_alignment(cosines: Tensor) -> Tensor:
    """2.5 * max(cosine, 0)."""
    return SCALE * cosines.clamp(min=0)


def likeness(training: Seen) -> float | None:
    """The highest cosine between two of the training images: what "alike" means among them. None for one image."""
    if len(training.image) < 2:
        return None
    return float((training.image @ training.image.T).fill_diagonal_(-1).max())


def mean(values: Tensor, places: Sequence[int] | None = None) -> float | None:
    """Over those that are not NaN (at `places`); None if there are none."""
    chosen = values if places is None else values[list(places)]
    known = chosen[~torch.isnan(chosen)]
    return float(known.mean()) if len(known) else None

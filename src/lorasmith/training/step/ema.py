"""An exponential moving average of the adapter's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average <- decay * average + (1 - decay) * weights after each step, with the decay of step n capped at
    (1 + n) / (10 + n), so that the start is forgotten quickly."""

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights = list(weights)
        self.decay = decay
        self.average = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The weights hold the average inside; afterwards they are what they were."""
        kept = [w.data for w in self.weights]
        for w, mean in zip(self.weights, self.average, strict=True):  # what is read meanwhile stays as it was read
            w.data = mean
        try:
            yield
        finally:
            for w, before in zip(self.weights, kept, strict=True):
                w.data = before

"""An exponential moving average of the trained weights."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average <- decay * average + (1 - decay) * weights, after each step.

    The decay of step n is at most (1 + n) / (10 + n), so that the first weights are forgotten quickly.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights = list(weights)
        self.decay = decay
        self.average = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after optimizer step `step`, counted from 1, into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Generator[None]:
        """The weights hold the average inside the block, and their own values again afterwards."""
        # Swapping `data` instead of copying leaves the trained values as they are, bit for bit.
        trained = [w.data for w in self.weights]
        for w, mean in zip(self.weights, self.average, strict=True):
            w.data = mean
        try:
            yield
        finally:
            for w, value in zip(self.weights, trained, strict=True):
                w.data = value

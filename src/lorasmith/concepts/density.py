"""How densely a model's own token embeddings lie around a value, in each dimension: a kernel density estimate.

p_d(x) = mean over the rows e of exp(-(x_d - e_d)^2 / 2h^2), where h is the bandwidth. The factor that would make it a
density is the same everywhere and left out, so p_d is at most 1. With 49,408 rows of 768 numbers, a sum over all rows
is too slow for each step of a training. Where the kernel is about as wide as the range of the rows, it factorizes:

    exp(-(x - e)^2 / 2h^2) = exp(-x^2 / 2h^2) * sum over k of (x / h)^k / k! * (e / h)^k exp(-e^2 / 2h^2),

so the rows are needed only once, for the means of the factors with e. Kernels that are narrow compared with the largest
number of the rows are summed in chunks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MAX_REACH = 6.0
"""The series is used for |x| up to this many bandwidths; beyond, the slope of 6 / h^2 pulls values back."""
MAX_EXPONENT = 16.0
"""Limit of |x e| / h^2 in the series: cancellation then costs 7 of the 16 digits of a float64."""
CHUNK_SIZE = 1 << 17
"""Numbers in one chunk of the table, at most; small enough for the cache of a processor."""


class Density:
    """The density of `table` (rows, width), the model's own embeddings. Gradients flow to x, not to the table."""

    def __init__(self, table: Tensor, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self.dtype = torch.float32 if table.device.type == "mps" else torch.float64
        largest = max(float(table.detach().abs().max()) / bandwidth, 1e-6)
        reach = min(MAX_REACH, MAX_EXPONENT / largest)
        self.wide = reach >= largest
        """Whether the series is valid over the whole range of the rows."""
        self.limit = reach * bandwidth
        self.terms = series_length(reach * largest)
        self.table = None if self.wide else table.detach()
        self.means = self._series_means(table.detach()) if self.wide else None

    def _series_means(self, table: Tensor) -> Tensor:
        """(terms, width): the means over the rows of (e / h)^k exp(-e^2 / 2h^2) / sqrt(k!)."""
        sums = torch.zeros(self.terms, table.shape[1], dtype=self.dtype, device=table.device)
        for rows in chunks(table, table.shape[1]):
            e = rows.to(self.dtype) / self.bandwidth
            term = torch.exp(-e.square() / 2)
            for k in range(self.terms):
                sums[k] += term.sum(0)
                # The factor 1 / k! is shared equally between the powers of e and of x, so that neither overflows.
                term.mul_(e).mul_(1 / math.sqrt(k + 1))
        return sums / len(table)

    def log(self, x: Tensor) -> Tensor:
        """log p_d(x), (n, width) like `x`."""
        if self.means is None:
            assert self.table is not None
            return LogMeanKernel.apply(x, self.table, self.bandwidth)  # type: ignore[no-any-return]
        x = x.to(self.dtype)
        u = x.clamp(-self.limit, self.limit) / self.bandwidth
        power, total = torch.ones_like(u), torch.zeros_like(u)
        for k in range(self.terms):
            total = total + power * self.means[k]
            power = power * u / math.sqrt(k + 1)
        return total.log() - (x / self.bandwidth).square() / 2


def series_length(z: float) -> int:
    """The number of terms of the series of e^z until one is below 1e-15."""
    term, count = 1.0, 1
    while term > 1e-15:
        term *= z / count
        count += 1
    return count


class LogMeanKernel(torch.autograd.Function):
    """log of the mean of exp(-(x - e)^2 / 2h^2) over the rows e of a table. Chunks are not stored for the backward
    pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, bandwidth: float) -> Tensor:
        """`x`: (n, width); the result has its dtype."""
        z = x.detach() / bandwidth
        # A running log-sum-exp: sums are relative to the largest exponent so far.
        largest = torch.full_like(z, -math.inf)
        total = torch.zeros_like(z)
        weighted_distance = torch.zeros_like(z)
        for rows in chunks(table, z.numel()):
            distance = rows.to(z.dtype)[:, None] / bandwidth - z  # (rows, n, width)
            exponents = -distance.square() / 2
            new_largest = torch.maximum(largest, exponents.amax(0))
            weights = (exponents - new_largest).exp()
            rescale = (largest - new_largest).exp()
            total = total * rescale + weights.sum(0)
            weighted_distance = weighted_distance * rescale + (weights * distance).sum(0)
            largest = new_largest
        # d/dx of the result is the mean distance to the rows, weighted by the kernel.
        ctx.save_for_backward(weighted_distance / total / bandwidth)
        return largest + total.log() - math.log(len(table))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def chunks(table: Tensor, numbers_per_row: int) -> tuple[Tensor, ...]:
    """The table in chunks of so many rows that a result with `numbers_per_row` numbers for each is not too large."""
    size = CHUNK_SIZE if table.device.type == "cpu" else CHUNK_SIZE << 8  # a GPU needs large chunks
    return table.split(max(1, size // max(1, numbers_per_row)))

"""How densely a model's own word vectors lie around a value, in each dimension: a kernel density estimate.

p_d(x) = mean over the rows e of exp(-(x_d - e_d)^2 / 2h^2), h the bandwidth; the factor that would make it a density is
the same everywhere and left out, so that p_d is at most 1. With 49,408 rows of 768 numbers a sum
over rows is too much for each step of a training, but where the kernel is as wide as the rows it can be taken apart:

    exp(-(x - e)^2 / 2h^2) = exp(-x^2 / 2h^2) * sum over k of (x / h)^k / k! * (e / h)^k exp(-e^2 / 2h^2),

so that the rows are needed once, for the means of what holds e. Kernels that are narrow beside the rows' largest number
are summed in pieces.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

REACH = 6.0
"""The series holds for |x| up to so many bandwidths; a rate of 6 / h^2 pulls back what is further away."""
STEEPEST = 16.0
"""Of |x e| / h^2: the sum of its signs then costs 7 of a float64's 16 digits."""
CHUNK = 1 << 17
"""Numbers that a piece of the table holds at most; few enough for a cache of the processor."""


class Density:
    """Of `table` (rows, width), the model's own vectors; gradients flow to what it is asked of, not to the table."""

    def __init__(self, table: Tensor, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self.dtype = torch.float32 if table.device.type == "mps" else torch.float64
        largest = max(float(table.detach().abs().max()) / bandwidth, 1e-6)
        reach = min(REACH, STEEPEST / largest)
        self.wide = reach >= largest
        """Whether the series holds as far as the rows reach."""
        self.limit = reach * bandwidth
        self.terms = needed(reach * largest)
        self.table = None if self.wide else table.detach()
        self.means = self._means(table.detach()) if self.wide else None

    def _means(self, table: Tensor) -> Tensor:
        """(terms, width): the means of (e / h)^k exp(-e^2 / 2h^2) / sqrt(k!)."""
        found = torch.zeros(self.terms, table.shape[1], dtype=self.dtype, device=table.device)
        for rows in pieces(table, table.shape[1]):
            e = rows.to(self.dtype) / self.bandwidth
            term = torch.exp(-e.square() / 2)
            for k in range(self.terms):
                found[k] += term.sum(0)
                term.mul_(e).mul_(1 / math.sqrt(k + 1))
        return found / len(table)

    def log(self, x: Tensor) -> Tensor:
        """log p_d(x), (n, width) like `x`."""
        if self.means is None:
            assert self.table is not None
            return Summed.apply(x, self.table, self.bandwidth)  # type: ignore[no-any-return]
        x = x.to(self.dtype)
        u = x.clamp(-self.limit, self.limit) / self.bandwidth
        power, total = torch.ones_like(u), torch.zeros_like(u)
        for k in range(self.terms):
            total = total + power * self.means[k]
            power = power * u / math.sqrt(k + 1)
        return total.log() - (x / self.bandwidth).square() / 2


def needed(z: float) -> int:
    """How many terms of the series of e^z until one is below 1e-15."""
    term, count = 1.0, 1
    while term > 1e-15:
        term *= z / count
        count += 1
    return count


class Summed(torch.autograd.Function):
    """log of the mean of exp(-(x - e)^2 / 2h^2) over the rows e of a table, piece by piece; no piece is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, bandwidth: float) -> Tensor:
        """`x`: (n, width), in whose dtype it is computed."""
        z = x.detach() / bandwidth
        most = torch.full_like(z, -math.inf)
        total, pull = torch.zeros_like(z), torch.zeros_like(z)
        for rows in pieces(table, z.numel()):
            away = rows.to(z.dtype)[:, None] / bandwidth - z  # (rows, n, width)
            logs = -away.square() / 2
            now = torch.maximum(most, logs.amax(0))
            weights = (logs - now).exp()
            shrunk = (most - now).exp()
            total, pull, most = total * shrunk + weights.sum(0), pull * shrunk + (weights * away).sum(0), now
        ctx.save_for_backward(pull / total / bandwidth)
        return most + total.log() - math.log(len(table))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def pieces(table: Tensor, per_row: int) -> tuple[Tensor, ...]:
    """The table in pieces of so many rows that a result with `per_row` numbers for each is not too large."""
    room = CHUNK if table.device.type == "cpu" else CHUNK << 8  # a GPU wants large pieces
    return table.split(max(1, room // max(1, per_row)))

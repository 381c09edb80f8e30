"""The best product of low rank: of a matrix, or of a product that already has a low rank. Errors in Frobenius norm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError

COLUMNS = 1 << 20
"""Numbers that are held in double precision at a time."""
FLOOR = 1e-7
"""Singular values below this share of the largest are rounding noise of float32."""


class Spectrum(ABC):
    """A matrix (out, n) by its singular values, largest first, float64: what any rank would keep and lose."""

    values: Tensor

    @abstractmethod
    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """up (out, r) and down (r, n), float32, whose product is the best of rank r (Eckart and Young)."""

    @property
    def total(self) -> float:
        """The squared norm."""
        return float(self.values.square().sum())

    def lost(self, rank: int) -> float:
        """The squared norm of what rank `rank` leaves out."""
        return float(self.values[rank:].square().sum())

    @property
    def full(self) -> int:
        """How many ranks are more than rounding noise; at least 1."""
        return max(1, int((self.values > FLOOR * self.values[0]).sum())) if len(self.values) else 1


class Dense(Spectrum):
    """Of a matrix, by the eigenvectors of its smaller Gram matrix; no more than a block is there in float64."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix, self._wide = matrix, matrix.shape[0] <= matrix.shape[1]
        values, vectors = torch.linalg.eigh(_gram(matrix if self._wide else matrix.T))
        self.values, self._vectors = values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        rank = min(rank, self.full)
        basis, sizes = self._vectors[:, :rank].float(), self.values[:rank].sqrt().float()
        inverse = torch.where(sizes > 0, 1 / sizes, torch.zeros_like(sizes))
        if self._wide:
            return basis * sizes, inverse[:, None] * (basis.T @ self._matrix)
        return (self._matrix @ basis) * inverse, sizes[:, None] * basis.T


class Product(Spectrum):
    """Of up (out, r) @ down (r, n), through the QR of both factors: the product itself is never formed."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        left, first = torch.linalg.qr(up.double())
        right, second = torch.linalg.qr(down.double().T)
        u, self.values, v = torch.linalg.svd(first @ second.T, full_matrices=False)
        self._up, self._down = left @ u, v @ right.T

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        rank = min(rank, self.full)
        sizes = self.values[:rank].sqrt()
        return (self._up[:, :rank] * sizes).float(), (sizes[:, None] * self._down[:rank]).float()


@dataclass(frozen=True)
class Cut:
    """How much to keep: ranks, a share of the squared norm (`energy`), a share of the norm (`frobenius`); with a share,
    `rank` is the most that a layer gets. `per_layer`: every layer gets the ranks that it needs."""

    rank: int | None = None
    energy: float | None = None
    frobenius: float | None = None
    per_layer: bool = False

    def __post_init__(self) -> None:
        if self.energy is not None and self.frobenius is not None:
            raise LorasmithError("--energy and --frobenius say the same in two ways (energy = frobenius^2); give one")
        if self.rank is None and self.share is None:
            raise LorasmithError("say how much to keep: --rank R, --energy E or --frobenius Q (shares in 0..1)")
        if self.rank is not None and self.rank < 1:
            raise LorasmithError(f"--rank {self.rank}: a rank is 1 or more")
        if self.share is not None and not 0 < self.share <= 1:
            raise LorasmithError(f"a share of {self.energy or self.frobenius}: give a number above 0, up to 1")

    @property
    def share(self) -> float | None:
        """The share of the squared norm to keep."""
        return self.frobenius**2 if self.frobenius is not None else self.energy

    def of(self, spectrum: Spectrum) -> int:
        """The rank of one layer by itself."""
        most = spectrum.full if self.rank is None else min(self.rank, spectrum.full)
        return most if self.share is None else min(most, _enough([spectrum], self.share))

    def ranks(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        """The rank of each layer: one for all, or per layer its own.

        Per layer and with a rank only, rank * layers ranks go to the largest singular values of the whole file.
        """
        if self.per_layer and self.share is None:
            assert self.rank is not None
            return _shared_out(spectra, self.rank)
        if self.per_layer or self.share is None:
            return {name: self.of(s) for name, s in spectra.items()}
        rank = _enough(list(spectra.values()), self.share)
        rank = rank if self.rank is None else min(rank, self.rank)
        return {name: min(rank, s.full) for name, s in spectra.items()}


@dataclass
class Loss:
    """What an approximation leaves out, summed over layers."""

    total: float = 0.0
    lost: float = 0.0
    worst: tuple[str, float] | None = None

    def add(self, name: str, total: float, lost: float) -> None:
        """A layer's squared norm, and that of what is left out of it."""
        self.total, self.lost = self.total + total, self.lost + lost
        own = math.sqrt(lost / total) if total else 0.0
        if self.worst is None or own > self.worst[1]:
            self.worst = (name, own)

    @property
    def error(self) -> float:
        """|approximation - exact| / |exact| over the whole file."""
        return math.sqrt(self.lost / self.total) if self.total else 0.0


def _gram(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T in float64, a block of columns at a time."""
    found = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64)
    for block in matrix.split(max(1, COLUMNS // max(1, matrix.shape[0])), dim=1):
        double = block.double()
        found.addmm_(double, double.T)
    return found


def _enough(spectra: list[Spectrum], share: float) -> int:
    """The smallest rank that, in all of these, keeps this share of the squared norm."""
    most = max(s.full for s in spectra)
    allowed = (1 - share) * sum(s.total for s in spectra)
    return next((rank for rank in range(1, most) if sum(s.lost(rank) for s in spectra) <= allowed), most)


def _shared_out(spectra: Mapping[str, Spectrum], rank: int) -> dict[str, int]:
    ranks = dict.fromkeys(spectra, 1)
    further = [(-float(v), name) for name, s in spectra.items() for v in s.values[1 : s.full]]
    for _, name in sorted(further)[: (rank - 1) * len(spectra)]:
        ranks[name] += 1
    return ranks

"""Best approximations of low rank: of a matrix, or of a product of two factors. Errors are in Frobenius norm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError

BLOCK_NUMBERS = 1 << 20
"""How many numbers are converted to float64 at a time."""
RANK_TOLERANCE = 1e-7
"""Singular values below this share of the largest are rounding noise of float32."""


class Svd(ABC):
    """The singular value decomposition of a matrix (out, n)."""

    singular_values: Tensor
    """Largest first, float64."""

    @abstractmethod
    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        """up (out, r) and down (r, n), float32, whose product is the best approximation of rank r (Eckart and
        Young)."""

    @property
    def squared_norm(self) -> float:
        """The squared Frobenius norm of the matrix."""
        return float(self.singular_values.square().sum())

    def squared_error(self, rank: int) -> float:
        """The squared Frobenius norm of what the best approximation of a rank leaves out."""
        return float(self.singular_values[rank:].square().sum())

    @property
    def numerical_rank(self) -> int:
        """The number of singular values above rounding noise; at least 1."""
        if not len(self.singular_values):
            return 1
        threshold = RANK_TOLERANCE * self.singular_values[0]
        return max(1, int((self.singular_values > threshold).sum()))


class MatrixSvd(Svd):
    """SVD of a matrix, by the eigenvectors of its smaller Gram matrix. Only one block at a time is held in float64."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self._is_wide = matrix.shape[0] <= matrix.shape[1]
        eigenvalues, eigenvectors = torch.linalg.eigh(_gram_matrix(matrix if self._is_wide else matrix.T))
        # eigh sorts in ascending order; rounding can make the smallest eigenvalues negative
        self.singular_values = eigenvalues.flip(0).clamp(min=0).sqrt()
        self._vectors = eigenvectors.flip(1)

    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        rank = min(rank, self.numerical_rank)
        vectors = self._vectors[:, :rank].float()
        # both factors get the square root of the singular values
        roots = self.singular_values[:rank].sqrt().float()
        inverse_roots = torch.where(roots > 0, 1 / roots, torch.zeros_like(roots))
        if self._is_wide:
            return vectors * roots, inverse_roots[:, None] * (vectors.T @ self._matrix)
        return (self._matrix @ vectors) * inverse_roots, roots[:, None] * vectors.T


class ProductSvd(Svd):
    """SVD of up (out, r) @ down (r, n), by the QR of both factors: the product itself is never formed."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        # SVD of the small (r, r) core between two orthogonal bases
        up_basis, up_triangle = torch.linalg.qr(up.double())
        down_basis, down_triangle = torch.linalg.qr(down.double().T)
        u, self.singular_values, v = torch.linalg.svd(up_triangle @ down_triangle.T, full_matrices=False)
        self._left = up_basis @ u
        self._right = v @ down_basis.T

    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        rank = min(rank, self.numerical_rank)
        roots = self.singular_values[:rank].sqrt()
        up = self._left[:, :rank] * roots
        down = roots[:, None] * self._right[:rank]
        return up.float(), down.float()


def svd_of_product(up: Tensor, down: Tensor) -> Svd:
    """SVD of up @ down, by the factors where they are smaller than the product."""
    if up.shape[1] < min(up.shape[0], down.shape[1]):
        return ProductSvd(up, down)
    return MatrixSvd(up @ down)


@dataclass(frozen=True)
class Truncation:
    """Which rank to keep: a number, a share of the squared norm (`energy`), or a share of the norm (`frobenius`).

    With a share, `rank` is the maximum of a layer. `per_layer`: every layer gets the rank that it needs.
    """

    rank: int | None = None
    energy: float | None = None
    frobenius: float | None = None
    per_layer: bool = False

    def __post_init__(self) -> None:
        if self.energy is not None and self.frobenius is not None:
            raise LorasmithError(
                "--energy and --frobenius are two forms of one setting (energy = frobenius^2); give one of them"
            )
        if self.rank is None and self.energy_share is None:
            raise LorasmithError("no rank is given: use --rank R, --energy E or --frobenius Q (shares in 0..1)")
        if self.rank is not None and self.rank < 1:
            raise LorasmithError(f"--rank {self.rank}: a rank must be 1 or more")
        if self.energy_share is not None and not 0 < self.energy_share <= 1:
            raise LorasmithError(f"a share of {self.energy or self.frobenius}: must be above 0 and at most 1")

    @property
    def energy_share(self) -> float | None:
        """The share of the squared norm to keep; None if only a rank is given."""
        return self.frobenius**2 if self.frobenius is not None else self.energy

    def rank_for(self, svd: Svd) -> int:
        """The rank of a layer considered alone."""
        rank = svd.numerical_rank
        if self.rank is not None:
            rank = min(rank, self.rank)
        if self.energy_share is not None:
            rank = min(rank, _smallest_rank([svd], self.energy_share))
        return rank

    def ranks(self, svds: Mapping[str, Svd]) -> dict[str, int]:
        """The rank of each layer: one for all, or with `per_layer` one for each.

        With `per_layer` and no share, rank * (number of layers) ranks go to the largest singular values of the file.
        """
        # without a share, the number of ranks is given
        if self.energy_share is None:
            if self.per_layer:
                assert self.rank is not None
                return _distribute_ranks(svds, self.rank)
            return {name: self.rank_for(svd) for name, svd in svds.items()}
        if self.per_layer:
            return {name: self.rank_for(svd) for name, svd in svds.items()}
        # the smallest rank for all layers that keeps the share of the whole file
        common_rank = _smallest_rank(list(svds.values()), self.energy_share)
        if self.rank is not None:
            common_rank = min(common_rank, self.rank)
        return {name: min(common_rank, svd.numerical_rank) for name, svd in svds.items()}


@dataclass
class TruncationErrors:
    """What truncation leaves out, summed over layers."""

    squared_norm: float = 0.0
    squared_error: float = 0.0
    worst: tuple[str, float] | None = None
    """The layer with the largest relative error, and that error."""

    def truncate(self, name: str, svd: Svd, rank: int) -> tuple[Tensor, Tensor]:
        """Truncate a layer's change, and add its error to the sums."""
        up, down = svd.truncate(rank)
        self.add(name, svd.squared_norm, svd.squared_error(down.shape[0]))
        return up, down

    def add(self, name: str, squared_norm: float, squared_error: float) -> None:
        """Add a layer's squared norm, and that of what is left out of it."""
        self.squared_norm += squared_norm
        self.squared_error += squared_error
        layer_error = math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
        if self.worst is None or layer_error > self.worst[1]:
            self.worst = (name, layer_error)

    @property
    def relative_error(self) -> float:
        """|approximation - exact| / |exact| over the whole file."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


def _gram_matrix(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T in float64, one block of columns at a time."""
    rows = matrix.shape[0]
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    for block in matrix.split(max(1, BLOCK_NUMBERS // max(1, rows)), dim=1):
        block64 = block.double()
        gram.addmm_(block64, block64.T)
    return gram


def _smallest_rank(svds: Sequence[Svd], energy_share: float) -> int:
    """The smallest rank that keeps this share of the squared norm, summed over the matrices."""
    max_rank = max(svd.numerical_rank for svd in svds)
    allowed_error = (1 - energy_share) * sum(svd.squared_norm for svd in svds)
    for rank in range(1, max_rank):
        if sum(svd.squared_error(rank) for svd in svds) <= allowed_error:
            return rank
    return max_rank


def _distribute_ranks(svds: Mapping[str, Svd], mean_rank: int) -> dict[str, int]:
    """One rank for each layer, and the others to the layers with the largest further singular values."""
    # a layer without any rank would need another format
    ranks = dict.fromkeys(svds, 1)
    candidates: list[tuple[float, str]] = []
    for name, svd in svds.items():
        for value in svd.singular_values[1 : svd.numerical_rank]:
            candidates.append((-float(value), name))
    for _, name in sorted(candidates)[: (mean_rank - 1) * len(svds)]:
        ranks[name] += 1
    return ranks

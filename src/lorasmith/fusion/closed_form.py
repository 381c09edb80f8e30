"""The change of one layer that comes nearest to what each concept's own change does to the concept's own inputs.

Gradient fusion (Mix-of-Show, arXiv 2305.18292, equation 5) looks for argmin_W sum_i |(W0 + D_i) X_i - W X_i|^2 by
LBFGS. It is linear regression, so W = W0 + (sum_i D_i G_i) (sum_i G_i + l I)^-1 with Gram matrices G_i = X_i X_i^T; and
with D_i = B_i A_i the result is [B_1 ... B_n] times [A_i G_i (sum G + l I)^-1] stacked: a LoRA whose rank is the sum of
theirs, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""up (out, r) and down (r, n) of a change up @ down; n counts a convolution's window too."""


class Sums:
    """What the regression of one layer needs of all concepts. It grows with their ranks only: no Gram matrix is kept.

    Where no input ever came the changes are added up.
    """

    def __init__(self) -> None:
        self.changes: list[Factors | None] = []
        self._total: Tensor | None = None
        self._moved: list[Tensor] = []

    def add(self, change: Factors | None, gram: Tensor) -> None:
        """One concept, whose inputs have the Gram matrix `gram` (n, n); `change`: None where it leaves this layer
        alone. `gram` is used up."""
        self.changes.append(change)
        if change is not None:
            self._moved.append(change[1].to(gram) @ gram)
        self.keep(gram)

    def keep(self, gram: Tensor) -> None:
        """Inputs (n, n) on which the layer is to stay as it was. `gram` is used up."""
        self._total = gram if self._total is None else self._total.add_(gram)

    def solve(self, ridge: float) -> Factors:
        """The fused change. `ridge` is l as a share of the mean diagonal of the sum of the Gram matrices."""
        assert self._total is not None
        if self._total.diagonal().mean() == 0:
            return stacked(self.changes)
        up, _ = stacked(self.changes)
        return up, solved(torch.cat(self._moved), self._total, ridge)


def solved(moved: Tensor, total: Tensor, ridge: float) -> Tensor:
    """moved (total + l I)^-1 in float32, `ridge` being l as a share of the mean diagonal of `total`; (r, n)."""
    total = total.double().clone()
    total.diagonal().add_(ridge * total.diagonal().mean())
    return torch.linalg.solve(total, moved.double().T).T.float()


def nearest_of_rank(change: Tensor, gram: Tensor, ridge: float, rank: int) -> Factors:
    """Of all changes of a rank the one that does most nearly the same to inputs with this Gram matrix (reduced-rank
    regression, Izenman 1975): the change (out, n) projected on the main directions of its outputs."""
    gram = gram.to(change.device).double().clone()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    wide = change.double()
    _, vectors = torch.linalg.eigh(wide @ gram @ wide.T)
    basis = vectors[:, -min(rank, *change.shape) :].flip(1)
    return basis.float().cpu(), (basis.T @ wide).float().cpu()


def stacked(changes: Sequence[Factors | None], share: float = 1.0) -> Factors:
    """`share` times the sum of the changes: all of it is weight concatenation, 1 / n weight fusion."""
    pairs = [pair for pair in changes if pair]
    return torch.cat([share * up for up, _ in pairs], 1).float(), torch.cat([down for _, down in pairs]).float()


def missed(fused: Factors, own: Factors | None, rows: Tensor) -> tuple[float, float]:
    """|(D - D_i) X_i|^2 and |D_i X_i|^2: what the fused change misses of a concept's own, and the whole of it. `rows`:
    the concept's inputs X_i^T, or a sketch of them, (q, n)."""
    rows = rows.float()
    made = (rows @ fused[1].T) @ fused[0].T
    if own is None:
        return float(made.double().square().sum()), 0.0
    wanted = (rows @ own[1].T) @ own[0].T
    return float((made - wanted).double().square().sum()), float(wanted.double().square().sum())

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


def regress(
    changes: Sequence[Factors | None], grams: Sequence[Tensor], ridge: float, kept: Tensor | None = None
) -> Factors:
    """The fused change. `grams` (n, n), one a concept; `changes`: None where a concept leaves this layer alone.

    `ridge` is l as a share of the mean diagonal of the sum of the Gram matrices. `kept` (n, n): inputs on which the
    layer is to stay as it was. Where no input ever came the changes are added up.
    """
    total = torch.stack([g.double() for g in grams]).sum(0) + (0 if kept is None else kept.double())
    size = total.diagonal().mean()
    if size == 0:
        return stacked(changes)
    up, _ = stacked(changes)
    moved = torch.cat([pair[1].double() @ g.double() for pair, g in zip(changes, grams, strict=True) if pair])
    total.diagonal().add_(ridge * size)
    return up, torch.linalg.solve(total, moved.T).T.float()


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


def missed(fused: Factors, own: Factors | None, gram: Tensor) -> tuple[float, float]:
    """|(D - D_i) X_i|^2 and |D_i X_i|^2: what the fused change misses of a concept's own, and the whole of it."""
    up, down = (t.double() for t in fused)
    if own is None:
        return _square(up, down, gram), 0.0
    own_up, own_down = (t.double() for t in own)
    both = torch.cat([up, -own_up], 1), torch.cat([down, own_down])
    return _square(*both, gram), _square(own_up, own_down, gram)


def _square(up: Tensor, down: Tensor, gram: Tensor) -> float:
    """|up down X|^2 with X X^T = gram, never forming up down."""
    return max(0.0, float(((up.T @ up) * (down @ gram.double() @ down.T)).sum()))

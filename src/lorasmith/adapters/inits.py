"""How the factors of a LoRA start."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from typing import TYPE_CHECKING

from lorasmith.adapters.factored import kaiming, normal
from lorasmith.core.deferred_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

FULL_SVD_SIDE = 256
"""Weights whose smaller side is at most this get a full SVD, larger ones a randomised one."""
OVERSAMPLING = 8
"""Directions that the randomised SVD follows beyond the rank."""


def down(init: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(rank, in, ...): `kaiming`; `gaussian`, N(0, 1 / rank), diffusers' choice; or `orthogonal` rows."""
    if init == "gaussian":
        return normal(shape, 1 / shape[0], generator)
    if init == "orthogonal":
        return torch.nn.init.orthogonal_(torch.empty(shape), generator=generator)
    return kaiming(shape, generator)


def reading_directions(weight: Tensor, down: Tensor, generator: torch.Generator) -> Tensor:
    """`down` (rank, in, ...) with the leading right singular vectors of a weight (out, in, ...) as its rows.

    They are the directions of the input that the weight answers to most. Each row has norm 1 / sqrt(3), which is that
    of a row of `kaiming`. Ranks beyond those of the weight stay as they are. (The start of anima_lora, 2026.)
    """
    matrix = weight.detach().float().flatten(1)
    count = min(len(down), *matrix.shape)
    _, _, directions = principal(matrix, count, generator)
    rows = down.flatten(1).clone()
    rows[:count] = directions.to(rows.device) / 3**0.5
    return rows.view_as(down)


def of_weight(init: str, weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """up (out, rank) and down (rank, rest) that start as a part of the weight itself.

    `pissa`: its principal components, U sqrt(S) and sqrt(S) V (arXiv 2404.02948); `olora`: the first columns of Q and
    rows of R of its QR decomposition (arXiv 2406.01775). `rank` is at most the smaller side.
    """
    matrix = weight.detach().float().flatten(1)
    if init == "olora":
        q, r = qr(matrix)
        return q[:, :rank], r[:rank]
    u, s, v = principal(matrix, rank, generator)
    return u * s.sqrt(), s.sqrt()[:, None] * v


def principal(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, rank), S (rank,), V (rank, n) of the largest singular values.

    Large matrices: randomised range finder with power iterations (Halko et al., arXiv 0909.4061, algorithm 4.4).
    """
    directions = rank + OVERSAMPLING
    if min(matrix.shape) <= max(FULL_SVD_SIDE, directions):
        u, s, v = svd(matrix)
        return u[:, :rank], s[:rank], v[:rank]
    # the columns of q span what the matrix maps a few random directions to
    probe = torch.randn(matrix.shape[1], directions, generator=generator).to(matrix.device)
    q, _ = qr(matrix @ probe)
    # each power iteration turns them further to the largest singular values; QR keeps them apart in float32
    for _ in range(8):
        rows, _ = qr(matrix.T @ q)
        q, _ = qr(matrix @ rows)
    u, s, v = svd(q.T @ matrix)
    return (q @ u)[:, :rank], s[:rank], v[:rank]


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The reduced QR decomposition, Q (m, k) and R (k, n), k = min(m, n)."""
    return torch.linalg.qr(matrix)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reduced SVD, U (m, k), S (k,), V (k, n), k = min(m, n)."""
    return torch.linalg.svd(matrix, full_matrices=False)

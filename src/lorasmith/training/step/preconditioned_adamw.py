"""The optimizer of `scaled_adamw`: AdamW on gradients that are divided by the other factor (arXiv 2402.02347)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorasmith.training.step.eager_adamw import EagerAdamW
from lorasmith.training.step.optimizers import FactorPair, Groups


class PreconditionedAdamW(EagerAdamW):
    """torch's AdamW, with the gradients of pairs of factors replaced before each step."""

    def __init__(self, groups: Groups, pairs: Sequence[FactorPair], damping: float, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.pairs = list(pairs)
        self.damping = damping

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step. Does not wait for the device."""
        # all pairs of one rank at once, since the inverse is many small operations
        by_rank: dict[int, list[FactorPair]] = {}
        for up, down in self.pairs:
            by_rank.setdefault(len(down), []).append((up, down))
        for rank, pairs in by_rank.items():
            self._precondition(rank, pairs)
        return super().step(closure)

    def _precondition(self, rank: int, pairs: Sequence[FactorPair]) -> None:
        """Replace the gradients of pairs (up, down) of one rank; both from the factors before the step."""
        damping = self.damping * torch.eye(rank, device=pairs[0][1].device)
        of_ups = torch.stack([up.flatten(1).T @ up.flatten(1) for up, _ in pairs])
        of_downs = torch.stack([down.flatten(1) @ down.flatten(1).T for _, down in pairs])
        of_ups, of_downs = inverse(of_ups + damping), inverse(of_downs + damping)
        for (up, down), of_up, of_down in zip(pairs, of_ups, of_downs, strict=True):
            if down.grad is not None:
                down.grad.copy_((of_up @ down.grad.flatten(1)).view_as(down))
            if up.grad is not None:
                up.grad.copy_((up.grad.flatten(1) @ of_down).view_as(up))


def inverse(matrices: Tensor) -> Tensor:
    """The inverses of symmetric positive definite matrices (n, r, r), by Gauss-Jordan elimination.

    r steps over all n matrices. torch's own inverse can ask the device whether it has succeeded, which a CUDA graph
    forbids; positive definite matrices need no pivots.
    """
    rank = matrices.shape[-1]
    # scaled to a diagonal of ones, so that matrices of any size lose the same number of digits
    scale = matrices.diagonal(dim1=1, dim2=2).rsqrt()
    left = matrices * scale[:, :, None] * scale[:, None, :]
    right = torch.eye(rank, device=matrices.device, dtype=matrices.dtype).expand_as(left)
    both = torch.cat([left, right], 2)
    for k in range(rank):
        row = both[:, k : k + 1] / both[:, k : k + 1, k : k + 1]
        column = both[:, :, k : k + 1].clone()
        # the row itself becomes `row`, all others lose their share of it
        column[:, k] -= 1
        both = both - column * row
    return both[:, :, rank:] * scale[:, :, None] * scale[:, None, :]

"""The change of one layer that comes closest to what each concept's own change does to the concept's own inputs.

Gradient fusion (Mix-of-Show, arXiv 2305.18292, equation 5) minimizes sum_i |(W0 + D_i) X_i - W X_i|^2 over W by LBFGS.
This is linear regression, so W = W0 + (sum_i D_i G_i) (sum_i G_i + l I)^-1 with Gram matrices G_i = X_i X_i^T. With
D_i = B_i A_i the result is [B_1 ... B_n] times the stacked [A_i G_i (sum G + l I)^-1]: exactly a LoRA whose rank is the
sum of the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""up (out, r) and down (r, n) of a change up @ down; for a convolution n includes the kernel window."""


class LayerRegression:
    """The sums that the regression of one layer needs of all concepts. Their size depends on the ranks: only the sum of
    the Gram matrices is kept, not each of them.

    If no input was collected for the layer, the changes are added up.
    """

    def __init__(self) -> None:
        self.changes: list[Factors | None] = []
        self._gram_sum: Tensor | None = None
        self._changed_downs: list[Tensor] = []
        """A_i G_i (r, n) of each concept that changes the layer."""

    def add_concept(self, change: Factors | None, gram: Tensor) -> None:
        """Add a concept whose inputs have the Gram matrix `gram` (n, n), which is overwritten. `change` is None if the
        concept does not change this layer."""
        self.changes.append(change)
        if change is not None:
            down = change[1]
            self._changed_downs.append(down.to(gram) @ gram)
        self.add_preserved(gram)

    def add_preserved(self, gram: Tensor) -> None:
        """Add inputs with this Gram matrix (n, n) for which the output is to stay. `gram` is overwritten."""
        self._gram_sum = gram if self._gram_sum is None else self._gram_sum.add_(gram)

    @property
    def has_inputs(self) -> bool:
        """Whether the layer ran at all."""
        return self._gram_sum is not None and bool(self._gram_sum.diagonal().mean() != 0)

    def solve(self, ridge: float) -> Factors:
        """The fused change. `ridge` is l as a share of the mean diagonal of the sum of the Gram matrices."""
        # A layer that never ran, such as one of an unused text encoder: any change fits, so all are kept.
        if not self.has_inputs:
            return concatenate_factors(self.changes)
        assert self._gram_sum is not None
        up, _ = concatenate_factors(self.changes)
        return up, solve_ridge(torch.cat(self._changed_downs), self._gram_sum, ridge)


def solve_ridge(target: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """target (gram + l I)^-1 in float32, (r, n). `ridge` is l as a share of the mean diagonal of `gram`."""
    # In float64: Gram matrices have the square of the inputs' condition number.
    gram = add_ridge(gram, ridge)
    return torch.linalg.solve(gram, target.double().T).T.float()


def add_ridge(gram: Tensor, ridge: float) -> Tensor:
    """gram + l I in float64; `ridge` is l as a share of the mean diagonal of `gram`."""
    gram = gram.to(torch.float64, copy=True)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return gram


def nearest_of_rank(change: Tensor, gram: Tensor, ridge: float, rank: int) -> Factors:
    """The change of this rank whose outputs for inputs with this Gram matrix are closest to those of `change` (out, n):
    `change` projected on the principal directions of its outputs (reduced-rank regression, Izenman 1975)."""
    gram = add_ridge(gram.to(change.device), ridge)
    change = change.double()
    output_gram = change @ gram @ change.T
    _, eigenvectors = torch.linalg.eigh(output_gram)
    basis = eigenvectors[:, -min(rank, *change.shape) :].flip(1)  # the largest eigenvalues first
    return basis.float().cpu(), (basis.T @ change).float().cpu()


def concatenate_factors(changes: Sequence[Factors | None], scale: float = 1.0) -> Factors:
    """`scale` times the sum of the changes, exactly: with 1 this is weight concatenation, with 1 / n weight fusion."""
    factors = [change for change in changes if change]
    up = torch.cat([scale * up for up, _ in factors], 1)
    down = torch.cat([down for _, down in factors])
    return up.float(), down.float()


def squared_output_error(fused: Factors, change: Factors | None, inputs: Tensor) -> tuple[float, float]:
    """|(D - D_i) X_i|^2 and |D_i X_i|^2: the error of the fused change D on a concept's inputs, and the size of the
    concept's own change D_i. `inputs`: X_i^T or a sketch of it, (q, n)."""
    inputs = inputs.float()
    fused_output = (inputs @ fused[1].T) @ fused[0].T
    if change is None:
        return float(fused_output.double().square().sum()), 0.0
    own_output = (inputs @ change[1].T) @ change[0].T
    error = (fused_output - own_output).double().square().sum()
    return float(error), float(own_output.double().square().sum())


class OutputErrors:
    """Sums over layers of `squared_output_error`, by the name of what is measured and by concept."""

    def __init__(self) -> None:
        self._sums: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, fused: Factors, changes: Sequence[Factors | None], inputs: Sequence[Tensor]) -> None:
        """Add a layer: the fused change, each concept's own, and a sketch of each concept's inputs."""
        sums = self._sums.setdefault(name, [(0.0, 0.0)] * len(inputs))
        for i, own_inputs in enumerate(inputs):
            error, size = squared_output_error(fused, changes[i], own_inputs)
            sums[i] = sums[i][0] + error, sums[i][1] + size

    def shares(self, name: str) -> list[float]:
        """The missed share of each concept: 0 is exact, 1 is no effect. A concept without an effect has 0."""
        return [math.sqrt(error / size) if size else 0.0 for error, size in self._sums.get(name, [])]

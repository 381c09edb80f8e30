"""The Cayley transform, R = (I + Q)(I - Q)^-1, of small skew-symmetric matrices, without waiting for the GPU.

What is computed is R - I = 2 Q (I - Q)^-1. Its relative error is that of rounding, also where Q is small.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST_LEAF = 16
"""Matrices up to this size are inverted by torch; larger ones are halved first. In one run on an H200, steps with OFT,
whose blocks have 32 rows, waited for the host and took 15.6 times LoRA's time; with BOFT, which has at most 16, 2.8."""


def rotation_change(q: Tensor) -> Tensor:
    """R - I for skew-symmetric Q, (..., n, n)."""
    change = RotationChange.apply(q)
    assert isinstance(change, Tensor)
    return change


class RotationChange(torch.autograd.Function):
    """R - I = 2 Q X with X = (I - Q)^-1, with a backward pass of two products.

    From dX = X dQ X and R - I = 2 X - 2 I follows that the gradient of Q is 2 X^T G X^T.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor) -> Tensor:
        one = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
        x = inverse(one - q)
        ctx.save_for_backward(x)
        return 2 * (q @ x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return 2 * (x.mT @ gradients[0] @ x.mT)


def inverse(a: Tensor) -> Tensor:
    """The inverse of matrices (..., n, n) whose symmetric part is positive definite, as that of I - Q is.

    By halves: P and the complement S - R P^-1 Q of [[P, Q], [R, S]] have such a symmetric part again, so that both can
    always be inverted and no rows need to be exchanged between the halves.
    """
    size = a.shape[-1]
    if size <= LARGEST_LEAF:
        # `inv`, which checks that there is an inverse, would wait for the GPU
        return torch.linalg.inv_ex(a).inverse
    half = size // 2
    p, q = a[..., :half, :half], a[..., :half, half:]
    r, s = a[..., half:, :half], a[..., half:, half:]
    p_inverse = inverse(p)
    left = r @ p_inverse
    complement_inverse = inverse(s - left @ q)
    above = p_inverse @ q @ complement_inverse
    upper = torch.cat([p_inverse + above @ left, -above], dim=-1)
    lower = torch.cat([-complement_inverse @ left, complement_inverse], dim=-1)
    return torch.cat([upper, lower], dim=-2)

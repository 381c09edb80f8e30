"""Gradients: loss scale for fp16, norm and clipping, all on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GROWTH_INTERVAL = 1000
"""Good steps in a row after which the scale is doubled."""


class LossScale:
    """A factor on the loss that keeps fp16 gradients of activations from vanishing; 1 and constant in other dtypes.

    It is halved when a gradient overflows and doubled after many good steps, without reading anything back
    (mixed precision training, arXiv 1710.03740, section 3.2).
    """

    def __init__(self, active: bool, device: torch.device) -> None:
        self.active = active
        self.value = torch.tensor(4096.0 if active else 1.0, device=device)
        self.good = torch.zeros((), device=device)

    def update(self, finite: Tensor) -> None:
        """After a step whose gradients were, or were not, finite."""
        if not self.active:
            return
        good = torch.where(finite, self.good + 1, 0.0)
        grown = good >= GROWTH_INTERVAL
        factor = torch.where(finite, torch.where(grown, 2.0, 1.0), 0.5)
        self.value.copy_((self.value * factor).clamp(1.0, 65536.0))
        self.good.copy_(torch.where(grown, 0.0, good))


@torch.no_grad()
def unscale_and_clip(parameters: Sequence[nn.Parameter], scale: Tensor, limit: float) -> Tensor:
    """Divide gradients by the loss scale, then scale them down to total norm `limit` (0: off).

    Returns the norm before clipping, scalar on the device; not finite if any gradient is not.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros((), device=scale.device)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) / scale
    factor = 1 / scale
    if limit > 0:
        factor = factor * (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, factor)
    return norm

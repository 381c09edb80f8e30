"""From gradients to an update: the loss scale for fp16, the norm, clipping, and the step, all on the device."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import SteppedPart

GROWTH_INTERVAL = 1000
"""The scale is doubled after this many good steps in a row."""
INITIAL_SCALE = 4096.0
MAX_SCALE = 65536.0
"""About the largest number in fp16; a larger scale would overflow by itself."""


class LossScale:
    """A factor on the loss that keeps fp16 gradients of activations from vanishing; 1 and constant in other dtypes.

    It is halved when a gradient overflows and doubled after many good steps, without reading anything back
    (mixed precision training, arXiv 1710.03740, section 3.2).
    """

    def __init__(self, active: bool, device: torch.device) -> None:
        self.active = active
        self.value = torch.tensor(INITIAL_SCALE if active else 1.0, device=device)
        self.good_steps = torch.zeros((), device=device)
        """Finite steps in a row since the scale last changed."""

    def update(self, finite: Tensor) -> None:
        """Adapt the scale. `finite`: scalar boolean, whether all gradients of the step were finite."""
        if not self.active:
            return
        good_steps = torch.where(finite, self.good_steps + 1, 0.0)
        grows = good_steps >= GROWTH_INTERVAL
        factor = torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)

        # Written in place: a captured CUDA graph holds the addresses of these tensors.
        self.value.copy_((self.value * factor).clamp(1.0, MAX_SCALE))
        self.good_steps.copy_(torch.where(grows, 0.0, good_steps))


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether all numbers of the tensors are finite: scalar boolean on the device, read back by nobody here."""
    # The largest magnitude of each tensor is not finite if any of its numbers is not. Other norms could overflow.
    largest = torch._foreach_norm(list(tensors), float("inf"))
    return torch.isfinite(torch.stack(largest)).all()


@torch.no_grad()
def unscale_and_clip(parameters: Sequence[nn.Parameter], scale: Tensor, max_norm: float) -> Tensor:
    """Divide gradients by the loss scale, then scale them down to the total norm `max_norm` (0: no clipping).

    Returns the norm before clipping, scalar on the device; it is not finite if any gradient is not.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros((), device=scale.device)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) / scale

    # Unscaling and clipping are one multiplication of each gradient.
    factor = 1 / scale
    if max_norm > 0:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, factor)
    return norm


@torch.no_grad()
def clear_untrained(parts: Sequence[SteppedPart]) -> None:
    """Make the gradients of the parameters zero that this step does not train."""
    for part in parts:
        grads = [p.grad for p in part.parameters if p.grad is not None]
        if grads:
            torch._foreach_mul_(grads, part.active)


def step_if_finite(optimizer: torch.optim.Optimizer, finite: torch.Tensor, parts: Sequence[SteppedPart] = ()) -> None:
    """One optimizer step, left out if `finite` (scalar bool tensor) is false.

    Fused optimizers of torch decide on the device, through the attributes that torch's own GradScaler sets. For others
    the decision is read back, which waits for the device. `parts`, only for fused optimizers: parameters that some
    steps do not train; the optimizer passes over them in these steps, as over parameters without a gradient.
    """
    decides_on_device = getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.defaults.get("fused")
    if not decides_on_device:
        if bool(finite):
            optimizer.step()
        return
    if not parts:
        _fused_step(optimizer, finite.float())
        return

    every_step = _outside(optimizer, parts)
    if every_step:
        with _only(optimizer, every_step):
            _fused_step(optimizer, finite.float())
    for part in parts:
        with _only(optimizer, part.parameters):
            _fused_step(optimizer, finite.float() * part.active)


def _outside(optimizer: torch.optim.Optimizer, parts: Sequence[SteppedPart]) -> list[nn.Parameter]:
    """The parameters of an optimizer that are in no part."""
    inside = {id(p) for part in parts for p in part.parameters}
    return [p for group in optimizer.param_groups for p in group["params"] if id(p) not in inside]


def _fused_step(fused: Any, active: Tensor) -> None:
    """One step of a fused optimizer, left out if `active` (scalar) is 0."""
    fused.grad_scale = None
    fused.found_inf = 1.0 - active
    fused.step()
    del fused.grad_scale, fused.found_inf


@contextmanager
def _only(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Inside the block the optimizer has these parameters alone."""
    chosen = {id(p) for p in parameters}
    groups = optimizer.param_groups
    optimizer.param_groups = [group | {"params": [p for p in group["params"] if id(p) in chosen]} for group in groups]
    try:
        yield
    finally:
        optimizer.param_groups = groups

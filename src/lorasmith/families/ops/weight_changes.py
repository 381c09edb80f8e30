"""Whole changes of many weights, computed together.

A kind whose change is no product of two factors adds a second weight D to its layer: y = x W^T + x D^T. Computed layer
by layer, D takes ten to twenty small launches in each pass. Here the layers with weights of one shape are one batch.
The backward pass computes the changes again, so that no matrix in float32 is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import Adapter, batch_key_of

LARGEST = 2**24
"""Weights that are computed together: enough to fill a GPU, and 64 MB in float32 for each intermediate result."""


@dataclass(frozen=True, eq=False)
class ChangeEntry:
    """An adapter, the weight (out, in) of its layer, and where its change goes, (out, in) in the weight's dtype."""

    adapter: Adapter
    weight: Tensor
    target: Tensor

    @property
    def key(self) -> Hashable:
        """What entries of one batch have in common."""
        shapes = tuple((name, p.shape) for name, p in self.adapter.named_parameters())
        return type(self.adapter), batch_key_of(self.adapter), tuple(self.weight.shape), shapes


class ChangeBatch:
    """Entries of one key."""

    def __init__(self, entries: Sequence[ChangeEntry]) -> None:
        self.entries = list(entries)
        self.first = entries[0].adapter
        self.weights = [entry.weight for entry in entries]
        self.targets = [entry.target for entry in entries]
        self.names = [name for name, _ in self.first.named_parameters()]

    def compute(self) -> tuple[Tensor, ...]:
        """Write all changes; returns them, as functions of the adapters' parameters."""
        return _Changes.apply(self, *self.parameters())  # type: ignore[return-value]

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the first adapter, then all of the second, and so on."""
        return [parameter for entry in self.entries for parameter in entry.adapter.parameters()]

    def stacked(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The parameters by name, each with the layers as its first dimension."""
        count = len(self.names)
        return [torch.stack(list(parameters[i::count])) for i in range(count)]

    def deltas(self, stacked: Sequence[Tensor]) -> Tensor:
        """The changes, (layers, out, in) in float32."""
        return self.first.deltas(dict(zip(self.names, stacked, strict=True)), self.weights)


class _Changes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: ChangeBatch, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.batch, ctx.parameters = batch, parameters
        torch._foreach_copy_(batch.targets, list(batch.deltas(batch.stacked(parameters)).unbind()))
        return tuple(target.detach() for target in batch.targets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        batch: ChangeBatch = ctx.batch
        given = next(gradient for gradient in grads if gradient is not None)
        whole = [torch.zeros_like(given) if gradient is None else gradient for gradient in grads]
        with torch.enable_grad():
            stacked = [tensor.requires_grad_() for tensor in batch.stacked([p.detach() for p in ctx.parameters])]
            changes = batch.deltas(stacked)
        found = torch.autograd.grad(changes, stacked, torch.stack(whole).to(changes.dtype))
        # back to the order of `ChangeBatch.parameters`
        by_layer = zip(*(gradient.unbind() for gradient in found), strict=True)
        return (None, *(gradient for layer in by_layer for gradient in layer))


def batches_of(entries: Sequence[ChangeEntry]) -> list[ChangeBatch]:
    """The entries in batches of at most `LARGEST` weights, in the order in which the layers run."""
    by_key: dict[Hashable, list[ChangeEntry]] = {}
    for entry in entries:
        by_key.setdefault(entry.key, []).append(entry)
    batches: list[ChangeBatch] = []
    for same in by_key.values():
        most = max(1, LARGEST // same[0].weight.numel())
        batches += [ChangeBatch(same[start : start + most]) for start in range(0, len(same), most)]
    return batches

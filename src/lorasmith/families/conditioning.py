"""What conditions the network besides x_t and t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CONTEXT = "context"
"""Text states (B, tokens, width), or (B, layers, tokens, width) when each cross-attention layer has its own (P+, arXiv
2303.09522)."""


@dataclass(frozen=True)
class Conditioning:
    """Named tensors with a batch dimension, made by a family's text side and read by its denoiser.

    The names are the family's own. Code in between moves, joins and caches the tensors without knowing them.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """The tensor called `name`, or None if there is none."""
        return self.tensors.get(name)

    def with_tensors(self, **tensors: Tensor) -> Conditioning:
        """A copy with these tensors added or replaced."""
        return replace(self, tensors={**self.tensors, **tensors})

    def with_tokens(self, tokens: Tensor) -> Conditioning:
        """A copy whose text states have further tokens (B, k, width) at their end, which the network attends to.

        Where each layer has its own text states, all layers get the same further tokens. Attention maps of new tokens
        cannot be recorded with further tokens.
        """
        context = self[CONTEXT]
        tokens = tokens.to(context)
        if context.dim() == 4:
            tokens = tokens[:, None].expand(-1, context.shape[1], -1, -1)
        return self.with_tensors(**{CONTEXT: torch.cat([context, tokens], -2)})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """A copy on another device. `dtype` applies to floating-point tensors only."""
        moved: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            wanted = dtype if tensor.is_floating_point() else None
            moved[name] = tensor.to(device, wanted, non_blocking=True)
        return Conditioning(moved)

    def rows(self, indices: Tensor) -> Conditioning:
        """The samples at `indices` (k,)."""
        return Conditioning({name: tensor[indices] for name, tensor in self.tensors.items()})

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """Several conditionings as one batch. All must have the same names and, without the batch, the same shapes."""
        names = parts[0].tensors
        return Conditioning({name: torch.cat([part[name] for part in parts]) for name in names})

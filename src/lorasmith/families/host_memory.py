"""Memory of the host for weights that a GPU reads while it computes."""

from __future__ import annotations

import torch
from torch import Tensor

SLAB = 256 * 2**20
"""Bytes that are allocated at once."""
ALIGNMENT = 256
"""Each tensor begins at a multiple of this many bytes."""


class HostMemory:
    """Places tensors one behind the other in large pieces of memory.

    torch rounds each page-locked allocation up to a power of two, so that Flux, one tensor at a time, would take 35 GB
    for 24 GB of weights.
    """

    def __init__(self, page_locked: bool) -> None:
        """`page_locked`: a GPU can copy from this memory without waiting for the CPU."""
        self._page_locked = page_locked
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._filled = 0

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A copy with the same shape, dtype and values."""
        size = tensor.numel() * tensor.element_size()
        if size > SLAB:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._page_locked).copy_(tensor)
        if self._filled + size > len(self._slab):
            self._slab = torch.empty(SLAB, dtype=torch.uint8, pin_memory=self._page_locked)
            self._filled = 0
        place = self._slab[self._filled : self._filled + size]
        self._filled += -(-size // ALIGNMENT) * ALIGNMENT
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)

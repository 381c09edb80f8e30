"""What a network's shape says of the memory that a training step needs, whatever the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class BlockActivations:
    """How many activations autograd saves of one block and one image for the backward pass."""

    inputs: int
    """Those that enter the block: what is saved when it is computed again (gradient checkpointing)."""
    all: float
    lean: float
    """The same as `all` with lean saves."""


class NetworkShape(Protocol):
    """The sizes of a denoiser."""

    @property
    def margin(self) -> float:
        """What the estimate of weights and activations is multiplied by, for what is not counted."""
        ...

    def block_activations(self, width: int, height: int) -> list[BlockActivations]:
        """The blocks in the order in which they run, for latents of this size."""
        ...

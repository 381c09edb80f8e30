"""What a network's shape says of the memory that a training step needs, whatever the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class KeptBlock:
    """How many numbers autograd keeps of one block and one image for the backward pass."""

    entering: int
    """Numbers that enter the block: what is kept of it when it is computed again."""
    inside: float
    lean: float
    """The same as `inside` with lean saves."""


class NetworkShape(Protocol):
    """The sizes of a denoiser."""

    @property
    def margin(self) -> float:
        """What the estimate of weights and activations is multiplied by, for what is not counted."""
        ...

    def kept_blocks(self, width: int, height: int) -> list[KeptBlock]:
        """The blocks in the order in which they run, for latents of this size."""
        ...

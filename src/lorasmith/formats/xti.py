"""sd-scripts' files of a token with vectors for each cross-attention layer (XTI; P+, arXiv 2303.09522).

One tensor (vectors, width) per layer, named by the block of the original layout that it is in: `IN01` is
`input_blocks.1`, `MID` the middle block, `OUT03` is `output_blocks.3`. SD 1.x and 2.x have sixteen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = (
    *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
    *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
)
"""In the order in which the UNet runs them."""


def encode(vectors: Tensor) -> dict[str, Tensor]:
    """Tensors of a file. `vectors`: (vectors, 16, width). Raises LorasmithError for another number of layers."""
    if vectors.dim() != 3 or vectors.shape[1] != len(LAYERS):
        raise LorasmithError(
            f"a token with vectors of shape {tuple(vectors.shape)} cannot be written as XTI, which has "
            f"{len(LAYERS)} layers"
        )
    return {name: vectors[:, i].contiguous() for i, name in enumerate(LAYERS)}


def is_xti(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of an XTI file."""
    return set(tensors) == set(LAYERS)


def decode(tensors: Mapping[str, Tensor]) -> Tensor:
    """(vectors, 16, width), float32."""
    return torch.stack([tensors[name].detach().float().cpu() for name in LAYERS], 1)

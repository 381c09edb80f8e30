"""BOFT: rotations in stages that mix near and far outputs, like the butterflies of an FFT (arXiv 2311.06243)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import AdapterConfig, LayerSpec
from lorasmith.adapters.oft import RotationAdapter


class BOFTAdapter(RotationAdapter):
    """`blocks`: (stages, count, size, size), size even. Stage i rotates blocks of outputs that stand 2^i * size / 2
    apart in groups of two: W <- P^T blockdiag(R) P W."""

    def rotate(self, weight: Tensor) -> Tensor:
        half = self.blocks.shape[-1] // 2
        for i, rotations in enumerate(self.rotations()):
            stride = 2**i * half
            mixed = weight.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2)
            turned = torch.einsum("kmn,kn...->km...", rotations, mixed.unflatten(0, (-1, 2 * half)))
            weight = turned.flatten(0, 1).unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
        return weight


class BOFT(AdapterConfig):
    """Butterfly rotations of outputs."""

    reads: ClassVar[frozenset[str]] = frozenset({"oft_blocks", "rescale", "alpha"})
    kind: Literal["boft"] = "boft"
    block_size: int = Field(default=16, ge=2)
    """Largest block; blocks are the largest even size up to this of which a power of two makes up the outputs."""
    constraint: float = Field(default=0.0, ge=0)
    """Bound of the rotation, times the number of outputs; 0 is none."""

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        return "oft_blocks" in tensors and tensors["oft_blocks"].dim() == 4

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> BOFTAdapter | None:
        size = butterfly(layer.shape[0], self.block_size)
        if layer.kind == "norm" or layer.groups != 1 or size is None:
            return None
        count = layer.shape[0] // size
        stages = count.bit_length()  # one more than the doublings from a block to all outputs
        return BOFTAdapter(layer, torch.zeros(stages, count, size, size), self.constraint)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> BOFTAdapter:
        alpha = float(tensors.get("alpha", torch.zeros(())))
        return BOFTAdapter(layer, tensors["oft_blocks"], alpha, tensors.get("rescale"))


def butterfly(outputs: int, largest: int) -> int | None:
    """The largest even block size up to `largest` of which a power of two makes `outputs`; None if there is none."""
    sizes = (s for s in range(2, min(largest, outputs) + 1, 2) if outputs % s == 0)
    return max((s for s in sizes if (outputs // s).bit_count() == 1), default=None)

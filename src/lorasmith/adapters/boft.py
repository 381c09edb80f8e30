"""BOFT: rotations in stages that mix near and far outputs, like the butterflies of an FFT (arXiv 2311.06243)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.cayley import rotation_change
from lorasmith.adapters.oft import RotationAdapter, rescale_fits


class BOFTAdapter(RotationAdapter):
    """W <- P^T blockdiag(R) P W, once for each stage; P permutes the outputs.

    `blocks`: (stages, count, size, size), size even. Stage i rotates blocks of outputs that stand 2^i * size / 2 apart
    in groups of two.
    """

    def rotate(self, weight: Tensor) -> Tensor:
        rotated = rotated_in_stages(weight.flatten(1)[None], self.rotation_changes()[None])
        return rotated.view(weight.shape)

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        blocks = parameters["blocks"]
        weights = torch.stack(list(bases)).float()
        return rotated_by_halves(weights, rotation_change(blocks - blocks.mT)) - weights


def rotated_in_stages(weights: Tensor, changes: Tensor) -> Tensor:
    """The weights of layers, (layers, out, in), rotated. `changes`: R - I, (layers, stages, count, size, size)."""
    half = changes.shape[-1] // 2
    last = changes.shape[1] - 1
    # P of the first stage: outputs that stand `half` apart become neighbours
    weights = weights.unflatten(1, (-1, 2, half)).transpose(2, 3).flatten(1, 3)
    for stage, change in enumerate(changes.unbind(1)):
        stride = 2**stage * half
        blocks = weights.unflatten(1, (-1, 2 * half))
        rotated = (blocks + change @ blocks).flatten(1, 2)
        if stage < last:
            # P^T of this stage and P of the next in one copy: outputs (a, b, c, d) of it are (a, d, c, b) there
            weights = rotated.unflatten(1, (-1, 2, stride, 2)).transpose(2, 4).flatten(1, 4)
        else:
            # P^T: every output back to its place
            weights = rotated.unflatten(1, (-1, stride, 2)).transpose(2, 3).flatten(1, 3)
    return weights


def rotated_by_halves(weights: Tensor, changes: Tensor) -> Tensor:
    """What `rotated_in_stages` returns, in fewer passes over the weights, for one more stage of rotations each.

    The first k stages mix outputs within runs of n = 2^k * size / 2, so together they rotate each run by one (n, n)
    matrix. The others mix outputs that have the same place in their runs, up to the run of size / 2 that it is in, so
    together they rotate these. Both matrices come from rotating the identity in stages.
    """
    layers, stages, count, size, _ = changes.shape
    first = stages // 2
    if first == 0:
        return rotated_in_stages(weights, changes)
    half, run = size // 2, 2**first * size // 2

    near = changes[:, :first].unflatten(2, (-1, run // size)).transpose(1, 2).flatten(0, 1)
    weights = (whole_rotation(near).unflatten(0, (layers, -1)) @ weights.unflatten(1, (-1, run))).flatten(1, 2)

    far = changes[:, first:].unflatten(2, (count // 2**first, 2**first)).movedim(3, 1).flatten(0, 1)
    # (layers, runs, places, half, in) to (layers, places, runs * half, in), and back
    rows = weights.unflatten(1, (-1, 2**first, half)).transpose(1, 2).flatten(2, 3)
    rows = whole_rotation(far).unflatten(0, (layers, -1)) @ rows
    return rows.unflatten(2, (-1, half)).transpose(1, 2).flatten(1, 3)


def whole_rotation(changes: Tensor) -> Tensor:
    """All stages as one matrix, (layers, out, out). `changes`: as in `rotated_in_stages`."""
    outputs = changes.shape[2] * changes.shape[3]
    one = torch.eye(outputs, dtype=changes.dtype, device=changes.device)
    return rotated_in_stages(one.expand(len(changes), -1, -1), changes)


class BOFT(AdapterConfig):
    """Butterfly rotations of outputs."""

    reads = frozenset({"oft_blocks", "rescale", "alpha"})
    kind: Literal["boft"] = "boft"
    block_size: int = Field(default=16, ge=2)
    """Largest block; blocks have the largest even size up to this such that a power of two of them makes up the
    outputs."""
    constraint: float = Field(default=0.0, ge=0)
    """Bound of the rotation, times the number of outputs; 0 means none."""

    @classmethod
    def claims(cls, tensors: FileTensors) -> bool:
        return "oft_blocks" in tensors and tensors["oft_blocks"].dim() == 4

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> BOFTAdapter | None:
        size = butterfly_block_size(layer.shape[0], self.block_size)
        if not layer.takes_factors or size is None:
            return None
        count = layer.shape[0] // size
        stages = count.bit_length()  # one more than the doublings from a block to all outputs
        return BOFTAdapter(layer, torch.zeros(stages, count, size, size), self.constraint)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        blocks = tensors.get("oft_blocks")
        if blocks is None or blocks.dim() != 4 or not rescale_fits(layer, tensors):
            return False
        stages, count, size, width = blocks.shape
        outputs = layer.shape[0]
        # the last stage pairs outputs that stand 2^(stages - 1) * size / 2 apart
        return size == width and size % 2 == 0 and count * size == outputs and outputs % (2**stages * size // 2) == 0

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> BOFTAdapter:
        constraint = float(tensors.get("alpha", torch.zeros(())))
        return BOFTAdapter(layer, tensors["oft_blocks"], constraint, tensors.get("rescale"))


def butterfly_block_size(outputs: int, largest: int) -> int | None:
    """The largest even block size up to `largest` of which a power of two makes `outputs`; None if there is none."""
    for size in range(min(largest, outputs), 1, -1):
        if size % 2 == 0 and outputs % size == 0 and (outputs // size).bit_count() == 1:
            return size
    return None

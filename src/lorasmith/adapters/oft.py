"""OFT: rotates blocks of outputs (orthogonal fine-tuning, arXiv 2306.07280)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec
from lorasmith.adapters.cayley import rotation_change
from lorasmith.adapters.factored import parameter
from lorasmith.adapters.lokr import factorization


class RotationAdapter(Adapter):
    """Rotations R = (I + Q)(I - Q)^-1 (Cayley) of blocks of outputs, Q = B - B^T.

    `blocks` B: (..., count, size, size). `constraint`: bound of the norm of all Q together, times the number of
    outputs; 0 means none. Files hold what the bound leaves, and alpha 0 (no bound), which all programs read alike.
    `rescale`: (out, 1[, 1, 1]) or None, only in files of other trainers.
    """

    tensor_names: ClassVar[dict[str, str]] = {"rescale": "rescale"}
    additive = False
    norm_limit_passes = 3
    blocks: Tensor
    rescale: Tensor | None

    def __init__(
        self, layer: LayerSpec, blocks: Tensor, constraint: float = 0.0, rescale: Tensor | None = None
    ) -> None:
        super().__init__(layer)
        if rescale is not None:
            rescale = rescale.reshape(-1, *[1] * (len(layer.shape) - 1))
        self.register_parameter("blocks", parameter(blocks))
        self.register_parameter("rescale", parameter(rescale))
        self.bound = constraint * layer.shape[0]

    def skew(self) -> Tensor:
        """Q, within the bound."""
        q = self.blocks - self.blocks.mT
        if self.bound > 0:
            q = q * (self.bound / (q.norm() + 1e-8)).clamp(max=1.0)
        return q

    def rotation_changes(self) -> Tensor:
        """R - I of each block, (..., count, size, size)."""
        return rotation_change(self.skew())

    def rotate(self, weight: Tensor) -> Tensor:
        """The weight, (out, ...), with its outputs rotated."""
        raise NotImplementedError

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        base = base.float()
        rotated = self.rotate(base)
        if self.rescale is not None:
            rotated = rotated * self.rescale
        return rotated - base

    def batch_key(self) -> Hashable | None:
        is_plain = self.bound == 0 and self.rescale is None
        return "plain" if is_plain and not self.drops_entries else None

    def changes_output(self, positions: int) -> bool:
        # the output has fewer numbers than the weight
        return positions < math.prod(self.layer.shape[1:]) and not self.drops_entries

    def output_change(self, x: Tensor, out: Tensor, base: Tensor) -> Tensor:
        """R^T out - out, in float32. Unlike a changed weight, it needs no gradient of the whole weight."""
        outputs = self._outputs_first(out.float())
        rotated = self.rotate(outputs)
        if self.rescale is not None:
            rotated = rotated * self.rescale.view(-1, *[1] * (rotated.dim() - 1))
        return self._outputs_last((rotated - outputs).to(out.dtype))

    def _outputs_first(self, out: Tensor) -> Tensor:
        """(out, ...) from (..., out), or from the (B, out, H, W) of a convolution."""
        return out.movedim(1 if self.layer.kind == "conv" else -1, 0)

    def _outputs_last(self, outputs: Tensor) -> Tensor:
        """The inverse of `_outputs_first`."""
        return outputs.movedim(0, 1 if self.layer.kind == "conv" else -1)

    def shrink(self, ratio: Tensor) -> None:
        self.blocks.copy_(self.skew() / 2 * ratio)

    @property
    def alpha(self) -> float:
        return 0.0

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "oft_blocks": self.skew().detach() / 2}


class OFTAdapter(RotationAdapter):
    """W'[k, m] = sum over n of R[k, n, m] W[k, n], where k is a block of outputs, m and n places in it."""

    def rotate(self, weight: Tensor) -> Tensor:
        return weight + self._rotated_by(self.rotation_changes(), weight)

    def output_change(self, x: Tensor, out: Tensor, base: Tensor) -> Tensor:
        """C^T out with C = R - I, which is exact enough in the dtype of `out`."""
        changes = self.rotation_changes()
        if self.rescale is not None:
            # s (I + C^T) out - out, where s is a number for each output
            one = torch.eye(changes.shape[-1], device=changes.device)
            scale = self.rescale.view(len(changes), 1, -1)
            changes = changes * scale + one * (scale - 1)
        return self._outputs_last(self._rotated_by(changes.to(out.dtype), self._outputs_first(out)))

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        blocks = parameters["blocks"]
        changes = rotation_change(blocks - blocks.mT)
        weights = torch.stack(list(bases)).float()
        # blocks of outputs of all layers, (layers, count, size, in)
        rows = weights.unflatten(1, changes.shape[1:3])
        return (changes.mT @ rows).view_as(weights)

    def _rotated_by(self, changes: Tensor, outputs: Tensor) -> Tensor:
        """C^T times each block of `outputs`, (out, ...). `changes` C: (count, size, size)."""
        blocks = outputs.unflatten(0, changes.shape[:2])
        return torch.einsum("knm,kn...->km...", changes, blocks).flatten(0, 1)


class OFT(AdapterConfig):
    """Rotations of blocks of outputs; the change keeps the angles between neurons of a block."""

    reads = frozenset({"oft_blocks", "rescale", "alpha"})
    kind: Literal["oft"] = "oft"
    block_size: int = Field(default=32, ge=2)
    """Outputs that are rotated together; the nearest divisor below if it does not divide the outputs."""
    constraint: float = Field(default=0.0, ge=0)
    """Bound of the rotation, times the number of outputs; 0 means none."""

    @classmethod
    def claims(cls, tensors: FileTensors) -> bool:
        return "oft_blocks" in tensors and tensors["oft_blocks"].dim() == 3

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> OFTAdapter | None:
        if not layer.takes_factors:
            return None
        size, count = factorization(layer.shape[0], self.block_size)
        return OFTAdapter(layer, torch.zeros(count, size, size), self.constraint)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        blocks = tensors.get("oft_blocks")
        if blocks is None or blocks.dim() != 3 or not rescale_fits(layer, tensors):
            return False
        count, size, width = blocks.shape
        return size == width and count * size == layer.shape[0]

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> OFTAdapter:
        constraint = float(tensors.get("alpha", torch.zeros(())))
        return OFTAdapter(layer, tensors["oft_blocks"], constraint, tensors.get("rescale"))


def rescale_fits(layer: LayerSpec, tensors: FileTensors) -> bool:
    """Whether `rescale` of a file, if there is one, has one number for each output."""
    rescale = tensors.get("rescale")
    return rescale is None or rescale.numel() == layer.shape[0]

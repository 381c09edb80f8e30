"""OFT: rotates blocks of outputs (orthogonal fine-tuning, arXiv 2306.07280)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec
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

    def rotations(self) -> Tensor:
        """R of each block, (..., count, size, size)."""
        q = self.skew()
        one = torch.eye(q.shape[-1], device=q.device)
        # I - Q can always be inverted; `inv`, which checks that, would wait for the GPU
        inverse = torch.linalg.inv_ex(one - q).inverse
        # (I + Q)(I - Q)^-1 = (2 I - (I - Q))(I - Q)^-1, without the product
        return 2 * inverse - one

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
        blocks = weight.unflatten(0, self.blocks.shape[:2])
        return torch.einsum("knm,kn...->km...", self.rotations(), blocks).flatten(0, 1)


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

"""Absolute error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.losses.base import Loss
from lorasmith.diffusion.path import DiffusionPath

if TYPE_CHECKING:
    from torch import Tensor


class L1(Loss):
    """|output - target|."""

    kind: Literal["l1"] = "l1"

    def __call__(self, output: Tensor, target: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return (output - target).abs()

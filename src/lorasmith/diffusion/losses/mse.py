"""Squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.diffusion.path import DiffusionPath


class Mse(Loss):
    """(output - target)^2."""

    kind: Literal["mse"] = "mse"

    def __call__(self, output: Tensor, target: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return (output - target) ** 2

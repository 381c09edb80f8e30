"""The weighting of EDM on the straight path."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class SigmaSqrt(Weighting):
    """1 / sigma^2 (sd-scripts and diffusers: `sigma_sqrt`), bounded at the first training timestep."""

    kind: Literal["sigma_sqrt"] = "sigma_sqrt"
    predictions: ClassVar[tuple[str, ...] | None] = ("velocity",)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        return path.sigma(t).float().clamp(min=1 / path.steps) ** -2

"""The weighting that gives velocity the SNR density of a cosine schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class CosMap(Weighting):
    """2 / (pi (1 - 2 sigma + 2 sigma^2)) (arXiv 2403.03206, equation 21)."""

    kind: Literal["cosmap"] = "cosmap"
    predictions: ClassVar[tuple[str, ...] | None] = ("velocity",)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        sigma = path.sigma(t).float()
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))

"""Debiased estimation weighting."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class Debiased(Weighting):
    """1 / sqrt(snr) for epsilon (arXiv 2310.08442), 1 / (snr + 1) for v.

    snr is bounded to [0.001, 1000], so that both ends of the schedule stay finite. There is no formula for other
    predictions.
    """

    predictions: ClassVar[tuple[str, ...] | None] = ("epsilon", "v_prediction")
    kind: Literal["debiased"] = "debiased"

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        snr = path.snr(t).clamp(1e-3, 1e3)
        return 1 / (snr + 1) if prediction.name == "v_prediction" else snr.rsqrt()

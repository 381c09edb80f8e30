"""Min-SNR weighting."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from lorasmith.diffusion.prediction import Prediction, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.base import Weighting


class MinSnr(Weighting):
    """min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for v (arXiv 2303.09556, equation 1 and 3.4)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0)

    def __call__(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        snr = schedule.snr(t)
        if isinstance(prediction, VPrediction):
            return snr.clamp(max=self.gamma) / (snr + 1)
        return (self.gamma / snr).clamp(max=1.0)

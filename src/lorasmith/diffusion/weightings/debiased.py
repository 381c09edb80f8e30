"""Debiased estimation weighting."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lorasmith.diffusion.prediction import Prediction, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.base import Weighting


class Debiased(Weighting):
    """1 / sqrt(snr) for epsilon (arXiv 2310.08442), 1 / (snr + 1) for v; snr taken within [0.001, 1000], so that both
    ends of the schedule stay finite."""

    kind: Literal["debiased"] = "debiased"

    def __call__(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        snr = schedule.snr(t).clamp(1e-3, 1e3)
        return 1 / (snr + 1) if isinstance(prediction, VPrediction) else snr.rsqrt()

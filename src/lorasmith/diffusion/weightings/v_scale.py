"""The loss of v-prediction on the scale of epsilon's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lorasmith.diffusion.prediction import Prediction, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.base import Weighting


class VScale(Weighting):
    """snr / (snr + 1) = abar_t for v: since epsilon = sigma x_t + alpha v, an error of v costs that much in epsilon.
    1 for epsilon, where there is nothing to scale."""

    kind: Literal["v_scale"] = "v_scale"

    def __call__(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        if not isinstance(prediction, VPrediction):
            return torch.ones_like(t, dtype=torch.float32)
        snr = schedule.snr(t).clamp(max=1e3)
        return snr / (snr + 1)

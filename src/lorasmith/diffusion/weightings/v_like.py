"""More weight where there is much noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.base import Weighting


class VLike(Weighting):
    """1 + strength (snr + 1) / snr: adds the weight over t that v-prediction's loss has to that of epsilon's. snr is
    taken within [0.001, 1000], so that pure noise stays finite."""

    kind: Literal["v_like"] = "v_like"
    strength: float = Field(default=0.1, gt=0)

    def __call__(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        snr = schedule.snr(t).clamp(1e-3, 1e3)
        return 1 + self.strength * (snr + 1) / snr

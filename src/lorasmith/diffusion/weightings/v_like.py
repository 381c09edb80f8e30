"""More weight where there is much noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class VLike(Weighting):
    """1 + strength (snr + 1) / snr: adds the weight that the loss of v-prediction has over t to that of epsilon.

    snr is bounded to [0.001, 1000], so that the weight of pure noise stays finite. The formula is sd-scripts', for
    epsilon and v; there is none for other predictions.
    """

    predictions: ClassVar[tuple[str, ...] | None] = ("epsilon", "v_prediction")
    kind: Literal["v_like"] = "v_like"
    strength: float = Field(default=0.1, gt=0)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        snr = path.snr(t).clamp(1e-3, 1e3)
        return 1 + self.strength * (snr + 1) / snr

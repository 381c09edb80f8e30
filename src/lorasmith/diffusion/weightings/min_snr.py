"""Min-SNR weighting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class MinSnr(Weighting):
    """min(snr, gamma) / w, where w is the weight that the prediction's loss gives to errors of x0.

    For epsilon w = snr, for v w = snr + 1 (arXiv 2303.09556, equation 1 and section 3.4): in terms of x0 the loss is
    weighted by min(snr, gamma) whatever the network predicts.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        wanted = path.snr(t).clamp(max=self.gamma)
        # At pure noise both are 0 for epsilon, and the limit of their quotient is 1.
        return (wanted / prediction.x0_weight(t, path)).nan_to_num(nan=1.0)

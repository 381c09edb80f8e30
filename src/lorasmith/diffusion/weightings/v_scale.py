"""The loss of a prediction on the scale of epsilon's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class VScale(Weighting):
    """snr / w, where w is the weight that the prediction's loss gives to errors of x0 (epsilon's loss gives them snr).

    For v this is snr / (snr + 1) = abar_t: since epsilon = sigma x_t + alpha v, an error of v makes abar_t of it in
    epsilon. For epsilon it is 1. snr is bounded to 1000, as in sd-scripts.
    """

    kind: Literal["v_scale"] = "v_scale"

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        snr = path.snr(t)
        bounded = snr.clamp(max=1e3)
        # w = snr + rest, where the rest is 0 for epsilon and 1 for v: only snr is bounded.
        rest = prediction.x0_weight(t, path) - snr
        # At pure noise both are 0 for epsilon, and the limit of their quotient is 1.
        return (bounded / (bounded + rest)).nan_to_num(nan=1.0)

"""P2 weighting: less weight where there is almost no noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class P2(Weighting):
    """1 / (k + snr)^gamma for epsilon (arXiv 2204.00227, equation 8).

    In terms of x0 that is snr / (k + snr)^gamma, which other predictions get by their own weight of x0 errors.
    """

    kind: Literal["p2"] = "p2"
    k: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        snr = path.snr(t)
        # At pure noise both are 0 for epsilon, and the limit of their quotient is 1.
        of_epsilon = (snr / prediction.x0_weight(t, path)).nan_to_num(nan=1.0)
        return of_epsilon / (self.k + snr) ** self.gamma

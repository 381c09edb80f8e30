"""The weighting that makes the loss that of x0."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class X0(Weighting):
    """1 / w, so that the loss is ||x0(output) - x0||^2; on the straight path of flow matching sigma^2.

    It is the loss of sd-scripts' SD3 script, and of diffusers' with `precondition_outputs` (the preconditioning of
    arXiv 2206.00364, section 5). Not for epsilon, whose estimate of x0 has no bound at pure noise.
    """

    kind: Literal["x0"] = "x0"
    predictions: ClassVar[tuple[str, ...] | None] = ("velocity", "v_prediction")

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        # where there is no noise, w is infinite and the weight 0
        return prediction.x0_weight(t, path).float().reciprocal()

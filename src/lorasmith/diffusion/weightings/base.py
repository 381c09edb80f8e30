"""The extension point of loss weightings."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.diffusion.path import DiffusionPath
    from lorasmith.diffusion.prediction import Prediction


class Weighting(Component, root="weighting"):
    """A factor for each sample's loss that depends on t alone."""

    predictions: ClassVar[tuple[str, ...] | None] = None
    """Kinds of prediction that the formula is defined for. None: any, because the formula uses `x0_weight`."""

    def check(self, prediction: Prediction) -> None:
        """Raise LorasmithError if the formula is not defined for this prediction."""
        if self.predictions is not None and prediction.name not in self.predictions:
            kind = getattr(self, "kind", type(self).__name__)
            raise LorasmithError(
                f'objective.weightings: "{kind}" is defined for {" and ".join(self.predictions)} only; this model '
                f'predicts "{prediction.name}". Remove it, or use "min_snr", which works with every prediction.'
            )

    @abstractmethod
    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        """t (B,) to weights (B,) float32, finite for every t of the path. Calls `check` first if it needs to."""

"""Direct consistency optimisation: learn the images without leaving the base (arXiv 2402.12004)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import F
from lorasmith.training.step.objectives.denoising import Denoising

if TYPE_CHECKING:
    from torch import Tensor


class Dco(Denoising):
    """-log sigmoid(-beta (e - e_base)), the errors of the model and of the base at the same x_t (equation 9).

    The model is paid for being better than the base, and less the further it is ahead, so that it stops early and other
    prompts keep their pictures without any pictures of a class. Costs a forward pass of the base in each step. The loss
    is divided by beta / 2, so that at the start its gradient is that of the plain loss.
    """

    kind: Literal["dco"] = "dco"  # type: ignore[assignment]
    beta: float = Field(default=1000.0, gt=0)
    """How soon an advance over the base is enough. The authors use 1000, at which an advance of 0.001 of the weighted
    error halves the gradient, roughly."""

    def sample_losses(self, errors: Tensor, base_errors: Callable[[], Tensor]) -> Tensor:
        return F.softplus(self.beta * (errors - base_errors())) * (2 / self.beta)

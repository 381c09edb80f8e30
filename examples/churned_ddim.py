"""A sampler: DDIM with a share of new noise in each step, fading out towards the end of the picture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from lorasmith.sampling.custom.base import Sampler, Step


class ChurnedDdim(Sampler):
    """x' = alpha' x0 + sigma' (sqrt(1 - s^2) noise + s z), with z ~ N(0, 1) and s falling linearly to 0.

    `churn` 0 is DDIM (arXiv 2010.02502). The noise keeps its variance, so that x' stays on the path.
    """

    kind: Literal["churned_ddim"] = "churned_ddim"
    churn: float = Field(default=0.3, ge=0, le=1)

    def step(self, step: Step) -> Tensor:
        """The next x: the clean estimate, and old and new noise."""
        share = self.churn * (1 - step.index / step.count)
        noise = (1 - share**2) ** 0.5 * step.noise
        if share > 0:
            noise = noise + share * step.draw()
        return step.next_alpha * step.x0 + step.next_sigma * noise

"""Input perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.base import Noise

if TYPE_CHECKING:
    from torch import Tensor


class InputPerturbation(Noise):
    """x_t is made with noise + gamma * n, while the target keeps the noise (arXiv 2301.11706, algorithm 1)."""

    input_only: ClassVar[bool] = True
    kind: Literal["input_perturbation"] = "input_perturbation"
    gamma: float = Field(default=0.1, ge=0)
    random: bool = False
    """Draw gamma anew for each sample, uniform in [0, gamma)."""

    def __call__(self, noise: Tensor, x0: Tensor, rng: StepRng) -> Tensor:
        gamma = self.gamma * rng.uniform("perturbation strength", (1, 1, 1)) if self.random else self.gamma
        return noise + gamma * rng.normal("perturbation", tuple(x0.shape[1:]))

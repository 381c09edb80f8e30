"""What the network predicts, and how to get from it to x0.

x0, noise, x_t and output have one shape, (B, C, h, w); t is (B,).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Component, registered
from lorasmith.diffusion.path import DiffusionPath

if TYPE_CHECKING:
    from torch import Tensor


class Prediction(Component, root="prediction"):
    """A parameterisation of the network's output."""

    @property
    def name(self) -> str:
        """The name that messages and metadata use: its kind."""
        return str(getattr(self, "kind", type(self).__name__))

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        """The output of a perfect network."""

    @abstractmethod
    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        """The estimate of the clean latent that `output` implies."""

    @abstractmethod
    def x0_weight(self, t: Tensor, path: DiffusionPath) -> Tensor:
        """w (B,) with ||output - target||^2 = w ||x0(output) - x0||^2: how the loss of this prediction weighs errors
        of x0. Weightings divide by it, so that their formulas hold for any prediction."""


def prediction_of_kind(kind: str) -> Prediction:
    """The prediction called `kind`, such as `epsilon`. Raises LorasmithError if there is none."""
    kinds = registered(Prediction)
    if kind not in kinds:
        raise LorasmithError(f'prediction "{kind}" not found; the known ones are {", ".join(sorted(kinds))}')
    return kinds[kind].model_validate({})


class Epsilon(Prediction):
    """The noise itself (arXiv 2006.11239)."""

    kind: Literal["epsilon"] = "epsilon"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return noise

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        # At pure noise epsilon carries no information on x0; the bound keeps the result finite.
        return (x_t - path.sigma(t, x_t) * output) / path.alpha(t, x_t).clamp(min=1e-4)

    def x0_weight(self, t: Tensor, path: DiffusionPath) -> Tensor:
        """SNR, since noise = (x_t - alpha x0) / sigma."""
        return path.snr(t)


class VPrediction(Prediction):
    """v = alpha noise - sigma x0 (arXiv 2202.00512, section 4), for paths with alpha^2 + sigma^2 = 1."""

    kind: Literal["v_prediction"] = "v_prediction"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return path.alpha(t, x0) * noise - path.sigma(t, x0) * x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return path.alpha(t, x_t) * x_t - path.sigma(t, x_t) * output

    def x0_weight(self, t: Tensor, path: DiffusionPath) -> Tensor:
        """SNR + 1 = 1 / sigma^2, since x0 = alpha x_t - sigma v."""
        return path.snr(t) + 1


class Velocity(Prediction):
    """u = noise - x0, the direction of the straight path of rectified flow (arXiv 2209.03003)."""

    kind: Literal["velocity"] = "velocity"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        return noise - x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, path: DiffusionPath) -> Tensor:
        """(x_t - sigma u) / (alpha + sigma), since x_t = (alpha + sigma) x0 + sigma u."""
        alpha, sigma = path.alpha(t, x_t), path.sigma(t, x_t)
        return (x_t - sigma * output) / (alpha + sigma)

    def x0_weight(self, t: Tensor, path: DiffusionPath) -> Tensor:
        """((alpha + sigma) / sigma)^2; on the straight path 1 / t^2."""
        return ((path.alpha(t) + path.sigma(t)) / path.sigma(t)) ** 2

"""The extension point of objectives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng
    from lorasmith.data.dataset import Batch
    from lorasmith.families.base import Family


@dataclass(frozen=True)
class StepResult:
    """The outcome of one micro-batch. All tensors stay on the device."""

    loss: Tensor
    """Scalar: the weighted *sum* over samples, so that micro-batches of any size add up to the global batch."""
    per_sample: Tensor
    """(B,): unweighted means."""
    t: Tensor
    """(B,)"""
    parts: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """Scalars to log by name, means over the samples."""


class Objective(Component, root="objective", default="denoising"):
    """From a batch to a loss. The batches it is called with are complete: `latents` and `conditioning` are set, on the
    device."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of all `StepResult.parts` that a step may have, in order."""
        return ()

    def check(self, family: Family) -> None:
        """Raise LorasmithError if the settings do not fit the model. Called once, before training."""

    @abstractmethod
    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        """The loss of a micro-batch. Must not synchronise with the host: it may be captured in a CUDA graph."""

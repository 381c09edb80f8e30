"""The path from data to noise: how much of x0 and how much noise x_t holds at each t.

x_t = alpha(t) x0 + sigma(t) noise. At the first t, x_t is nearly x0; at the last it is nearly noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from lorasmith.core.deferred_torch import torch
from lorasmith.core.rng import StepRng

if TYPE_CHECKING:
    from torch import Tensor


class DiffusionPath(ABC):
    """A path over t. Targets, losses, weightings and timestep samplers know no more of it than this interface.

    A table of steps (`NoiseSchedule`) has integer t; a continuous path (rectified flow, arXiv 2209.03003) has float t.
    Only the path itself interprets t.
    """

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of training timesteps. Configs give ranges of t in this unit, [0, steps)."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same path with its tensors on another device."""

    @abstractmethod
    def alpha(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """The factor of x0 at t (B,): shaped (B,), or shaped to broadcast over `like` (B, ...)."""

    @abstractmethod
    def sigma(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """The factor of the noise at t (B,): shaped (B,), or shaped to broadcast over `like` (B, ...)."""

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio alpha^2 / sigma^2, (B,). Infinite where there is no noise."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise, for x0 and noise (B, ...) and t (B,)."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * noise

    @abstractmethod
    def from_step(self, step: Tensor) -> Tensor:
        """A number of a training timestep (B,), whole or fractional, to t."""

    @abstractmethod
    def fraction(self, t: Tensor) -> Tensor:
        """The position of t on the path, (B,) float32 from 0 (data) to 1 (noise)."""

    @property
    def shift(self) -> float:
        """The factor by which the model's sampler moves times towards the noise; 1: not at all."""
        return 1.0

    def for_latents(self, height: int, width: int) -> DiffusionPath:
        """The path for latents of this size. Default: the same for all sizes."""
        return self

    def from_sampler(self, t: Tensor) -> Tensor:
        """A timestep of a diffusers scheduler (B,) to t. Default: t itself."""
        return t

    def network_time(self, t: Tensor) -> Tensor:
        """t as the network takes it. Default: t itself."""
        return t

    def uniform(self, rng: StepRng, low: int, high: int) -> Tensor:
        """A random t for each sample (B,), uniform between the training timesteps `low` and `high` (excluded)."""
        return self.at(rng.uniform("timesteps"), low, high)

    def at(self, u: Tensor, low: int, high: int) -> Tensor:
        """u (B,) in [0, 1] to t between the training timesteps `low` (u = 0) and `high` (u = 1)."""
        return self.from_step(low + u * (high - low))


def broadcast(values: Tensor, like: Tensor | None) -> Tensor:
    """(B,) reshaped to broadcast over `like` (B, ...); unchanged without it."""
    return values if like is None else values.view(-1, *[1] * (like.dim() - 1))

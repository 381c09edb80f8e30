"""The discrete path of DDPM (arXiv 2006.11239): a table of how much of x0 is left at each t.

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise, t = 0 .. steps - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath, broadcast


@dataclass(frozen=True)
class NoiseSchedule(DiffusionPath):
    """A discrete, variance-preserving schedule. `alphas_cumprod`: abar_t, (steps,) float32, falling."""

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> NoiseSchedule:
        """Stable Diffusion's schedule: betas linear in their square roots."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, 0).float())

    @classmethod
    def linear(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> NoiseSchedule:
        """DDPM's schedule: betas linear."""
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0).float())

    def zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule shifted and scaled so that x_T is pure noise (arXiv 2305.08891, algorithm 1). SNRs follow."""
        root = self.alphas_cumprod.double().sqrt()
        first, last = root[0].clone(), root[-1].clone()
        rescaled = (root - last) * first / (first - last)
        return NoiseSchedule((rescaled**2).float())

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device))

    def alpha(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast(self.alphas_cumprod[t].sqrt(), like)

    def sigma(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast((1 - self.alphas_cumprod[t]).sqrt(), like)

    def snr(self, t: Tensor) -> Tensor:
        """abar_t / (1 - abar_t), (B,)."""
        abar = self.alphas_cumprod[t]
        return abar / (1 - abar)

    def from_step(self, step: Tensor) -> Tensor:
        """The whole number at or below `step`, int64."""
        return step.long()

    def fraction(self, t: Tensor) -> Tensor:
        return t.float() / self.steps

    def uniform(self, rng: StepRng, low: int, high: int) -> Tensor:
        """(B,) int64 in [low, high)."""
        return rng.integers("timesteps", low, high)

    def at(self, u: Tensor, low: int, high: int) -> Tensor:
        """u (B,) in [0, 1] to int64 in [low, high). u = 1 is the last t, high - 1."""
        return low + (u * (high - low)).long().clamp(max=high - low - 1)


def require_schedule(path: DiffusionPath, purpose: str) -> NoiseSchedule:
    """`path` as DDPM's table. Raises LorasmithError, naming `purpose`, if it is another kind of path."""
    if not isinstance(path, NoiseSchedule):
        raise LorasmithError(
            f"{purpose} needs a model with a discrete noise schedule (DDPM: epsilon or v-prediction); "
            f"this model's path is {type(path).__name__}"
        )
    return path

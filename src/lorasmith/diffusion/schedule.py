"""The noise schedule: how much of x0 is left at each t (DDPM, arXiv 2006.11239).

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise, t = 0 .. steps - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete, variance-preserving schedule. `alphas_cumprod`: (steps,) float32, falling."""

    alphas_cumprod: Tensor

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> NoiseSchedule:
        """Stable Diffusion's: betas linear in their square roots."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, 0).float())

    @classmethod
    def linear(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> NoiseSchedule:
        """DDPM's: betas linear."""
        return cls(torch.cumprod(1 - torch.linspace(beta_start, beta_end, steps, dtype=torch.float64), 0).float())

    def zero_terminal_snr(self) -> NoiseSchedule:
        """Shifted and scaled so that x_T is pure noise (arXiv 2305.08891, algorithm 1). SNRs follow."""
        root = self.alphas_cumprod.double().sqrt()
        first, last = root[0].clone(), root[-1].clone()
        return NoiseSchedule((((root - last) * first / (first - last)) ** 2).float())

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device))

    def alpha(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """sqrt(abar_t), shaped (B,) or to broadcast over `like`."""
        return _broadcast(self.alphas_cumprod[t].sqrt(), like)

    def sigma(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """sqrt(1 - abar_t), shaped (B,) or to broadcast over `like`."""
        return _broadcast((1 - self.alphas_cumprod[t]).sqrt(), like)

    def snr(self, t: Tensor) -> Tensor:
        """abar_t / (1 - abar_t), (B,)."""
        abar = self.alphas_cumprod[t]
        return abar / (1 - abar)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of the formula above."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * noise


def _broadcast(values: Tensor, like: Tensor | None) -> Tensor:
    return values if like is None else values.view(-1, *[1] * (like.dim() - 1))

"""The straight path of rectified flow (arXiv 2209.03003, 2403.03206): x_t = (1 - t) x0 + t noise, t in [0, 1].

A *shift* moves times towards the noise: s(t) = f t / (1 + (f - 1) t) with the factor f. Large images need a larger f,
because a large image of the same content hides less of it under the same noise (arXiv 2403.03206, section 5.3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.path import DiffusionPath, broadcast

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 2
"""The side of a token in latents, of SD3 and Flux."""


@dataclass(frozen=True)
class ResolutionShift:
    """The factor exp(mu), with mu linear in the number of tokens of the image: Flux's rule."""

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096

    def factor(self, tokens: int) -> float:
        """The factor for an image of this many tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))


@dataclass(frozen=True)
class RectifiedFlow(DiffusionPath):
    """The path. Its time is a float from 0 (data) to 1 (noise); training timesteps are thousandths of it."""

    fixed_shift: float = 1.0
    """The factor with which the model's pictures are drawn, where it does not depend on their size."""
    resolution_shift: ResolutionShift | None = None
    """The rule where it does depend on it."""
    tokens: int | None = None
    """The number of tokens of the image at hand, as `for_latents` found it."""

    @property
    def steps(self) -> int:
        return 1000

    def to(self, device: torch.device | str) -> RectifiedFlow:
        return self

    def for_latents(self, height: int, width: int) -> RectifiedFlow:
        """The path for latents of this size."""
        return replace(self, tokens=(height // PATCH) * (width // PATCH))

    @property
    def shift(self) -> float:
        """The factor for the image at hand; without one, for the rule's smallest image."""
        rule = self.resolution_shift
        if rule is None:
            return self.fixed_shift
        return rule.factor(rule.base_tokens if self.tokens is None else self.tokens)

    def alpha(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast(1 - t, like)

    def sigma(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        return broadcast(t, like)

    def from_step(self, step: Tensor) -> Tensor:
        return step.float() / self.steps

    def from_sampler(self, t: Tensor) -> Tensor:
        """Flow schedulers count in training timesteps."""
        return self.from_step(t)

    def fraction(self, t: Tensor) -> Tensor:
        return t.float()

    def network_time(self, t: Tensor) -> Tensor:
        """Networks take training timesteps, fractional."""
        return t * self.steps

    def sampling_times(self, count: int) -> list[float]:
        """The times of a sampler with `count` steps before the shift, from 1 downwards; 0 follows them.

        As diffusers' pipelines choose them: SD3's end at the first training timestep, Flux's at 1 / count.
        """
        last = 1 / count if self.resolution_shift else shifted(1 / self.steps, self.fixed_shift)
        return [1 - (1 - last) * i / max(count - 1, 1) for i in range(count)]


def shifted(t: float, factor: float) -> float:
    """s(t) = factor t / (1 + (factor - 1) t), for t from 0 to 1."""
    return factor * t / (1 + (factor - 1) * t)


def require_flow(path: DiffusionPath, purpose: str) -> RectifiedFlow:
    """`path` as rectified flow. Raises LorasmithError, naming `purpose`, if it is another kind of path."""
    if not isinstance(path, RectifiedFlow):
        raise LorasmithError(
            f"{purpose} needs a flow-matching model (Stable Diffusion 3, Flux); this model's path is "
            f"{type(path).__name__}"
        )
    return path

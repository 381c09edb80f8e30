"""The extension point of samplers: one step from x_t to the next x_t."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What is known when a step is made. Latents are (B, C, h, w); the factors are single numbers of x_t = alpha x0 +
    sigma noise, at this time and at the next. After the last step, `next_alpha` is 1 and `next_sigma` is 0."""

    x: Tensor
    x0: Tensor
    """The network's estimate of the clean latents, guidance included."""
    noise: Tensor
    """The estimate of the noise that belongs to it: x = alpha x0 + sigma noise."""
    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float
    index: int
    """Steps made before this one."""
    count: int
    """Steps of the whole picture."""
    draw: Callable[[], Tensor]
    """New standard normal noise, (B, C, h, w), from the seed of each picture."""


class Sampler(Component, root="sampler"):
    """A sampler by its step. Its kind is its name: `--sampler KIND`, `preview.sampler = "KIND"`.

    It works for every path: noise schedules (Stable Diffusion) and flow matching (SD3, Flux). Settings are its
    defaults. It may keep nothing between steps, because one object may draw several batches.
    """

    @property
    def label(self) -> str:
        """The name that is written into PNG files."""
        return str(getattr(self, "kind", type(self).__name__))

    @abstractmethod
    def step(self, step: Step) -> Tensor:
        """x at the next time, (B, C, h, w)."""

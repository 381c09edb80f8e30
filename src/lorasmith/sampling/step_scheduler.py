"""A sampler of the extension point with the interface of diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.rectified_flow import RectifiedFlow, shifted
from lorasmith.sampling.custom.base import Sampler, Step


class StepScheduler:
    """The times of a picture, and the steps between them."""

    def __init__(self, sampler: Sampler, path: DiffusionPath, prediction: Prediction) -> None:
        self.sampler, self.path, self.prediction = sampler, path, prediction
        self.timesteps = torch.empty(0)

    def set_timesteps(self, count: int, device: torch.device | str = "cpu") -> None:
        """Choose the times of `count` steps: from pure noise, evenly spaced (trailing, arXiv 2305.08891, section 3.3);
        on the straight path those of the model's own sampler, with its shift."""
        if isinstance(self.path, RectifiedFlow):
            times = [shifted(t, self.path.shift) * self.path.steps for t in self.path.sampling_times(count)]
            self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        else:
            numbers = [round(self.path.steps * (1 - index / count)) - 1 for index in range(count)]
            self.timesteps = torch.tensor(numbers, device=device)

    def step(
        self,
        output: Tensor,
        t: Tensor,
        x: Tensor,
        return_dict: bool = False,
        generator: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor]:
        """x at the time after t, from the network's output at t."""
        index = int((self.timesteps == t.to(self.timesteps.device)).nonzero()[0])
        here = self.path.from_sampler(t.to(x.device).expand(len(x)))
        x0 = self.prediction.x0(output, x, here, self.path)
        alpha, sigma = self.factors(t)
        is_last = index + 1 == len(self.timesteps)
        next_alpha, next_sigma = (1.0, 0.0) if is_last else self.factors(self.timesteps[index + 1])
        state = Step(
            x=x,
            x0=x0,
            noise=(x - alpha * x0) / sigma,
            alpha=alpha,
            sigma=sigma,
            next_alpha=next_alpha,
            next_sigma=next_sigma,
            index=index,
            count=len(self.timesteps),
            draw=partial(normal_like, x, generator),
        )
        return (self.sampler.step(state),)

    def factors(self, t: Tensor) -> tuple[float, float]:
        """Alpha and sigma at a timestep."""
        at = self.path.from_sampler(t.reshape(1))
        return float(self.path.alpha(at)), float(self.path.sigma(at))


def normal_like(x: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Standard normal noise of the shape of x, drawn on the CPU, a generator for each picture."""
    if generators is None:
        return torch.randn(x.shape).to(x)
    return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)

"""Samplers in the form of k-diffusion, which A1111 and ComfyUI use: steps from one sigma to the next.

x = x0 + sigma noise, so the network's input is x / sqrt(1 + sigma^2). A `SigmaSampler` has the methods of diffusers'
schedulers that sampling calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOWEST_ALPHA_CUMPROD = 4.8973451890853435e-08
"""What both programs take in place of 0 at the end of a schedule with zero terminal SNR."""
KARRAS_RHO = 7.0

Sigmas = Callable[["Discrete", int], list[float]]
"""The sigmas of a number of steps, from the largest down, without the 0 at the end."""
Solver = Callable[["Step"], Tensor]
"""From x at one sigma to x at the next."""


class Discrete:
    """The sigmas of a model's schedule, between which log(sigma) is linear in t."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        abar = alphas_cumprod.double().cpu().clamp(min=LOWEST_ALPHA_CUMPROD)
        self.log_sigmas = (((1 - abar) / abar).log() / 2).numpy()

    @property
    def last(self) -> int:
        """The largest t."""
        return len(self.log_sigmas) - 1

    def sigma(self, t: float) -> float:
        """The sigma at t."""
        return float(np.exp(np.interp(t, np.arange(self.last + 1), self.log_sigmas)))

    def t(self, sigma: float) -> float:
        """The t of a sigma, in fractions."""
        return float(np.interp(math.log(sigma), self.log_sigmas, np.arange(self.last + 1)))

    def nearest_t(self, sigma: float) -> float:
        """The whole t whose sigma is nearest, measured by its logarithm."""
        return float(np.abs(self.log_sigmas - math.log(sigma)).argmin())


def normal_sigmas(model: Discrete, steps: int) -> list[float]:
    """Equal steps of t from the last to the first (ComfyUI's "normal")."""
    return [model.sigma(t) for t in np.linspace(model.last, 0, steps)]


def karras_sigmas(model: Discrete, steps: int) -> list[float]:
    """Equal steps of sigma^(1/7) (arXiv 2206.00364, equation 5)."""
    largest, smallest = model.sigma(model.last), model.sigma(0)
    ramp = np.linspace(largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO), steps)
    return (ramp**KARRAS_RHO).tolist()


@dataclass(frozen=True)
class Step:
    """One step: x at `sigma`, the denoised picture there, and the same of the step before, if there was one."""

    x: Tensor
    sigma: float
    next_sigma: float
    denoised: Tensor
    previous: tuple[float, Tensor] | None


def euler(step: Step) -> Tensor:
    """Euler's method (arXiv 2206.00364, algorithm 2 without noise)."""
    slope = (step.x - step.denoised) / step.sigma
    return step.x + slope * (step.next_sigma - step.sigma)


def dpmpp_2m(step: Step) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095); of first order in the first step and in that to 0."""
    if step.next_sigma == 0:
        return step.denoised
    h = math.log(step.sigma / step.next_sigma)
    denoised = step.denoised
    if step.previous is not None:
        previous_sigma, previous_denoised = step.previous
        ratio = math.log(previous_sigma / step.sigma) / h
        denoised = denoised + (denoised - previous_denoised) / (2 * ratio)
    return step.next_sigma / step.sigma * step.x - math.expm1(-h) * denoised


class SigmaSampler:
    """One batch of pictures. `prediction`: `epsilon` or `v_prediction`.

    `whole_t`: the network gets the nearest whole t, as in ComfyUI, else t in fractions. `unit_variance`: the first x
    has the variance of a noised picture, 1 + sigma^2, instead of sigma^2.
    """

    def __init__(
        self,
        alphas_cumprod: Tensor,
        prediction: str,
        steps: int,
        *,
        sigmas: Sigmas,
        solver: Solver,
        whole_t: bool,
        unit_variance: bool,
    ) -> None:
        model = Discrete(alphas_cumprod)
        self.sigmas = [*sigmas(model, steps), 0.0]
        self.solver = solver
        to_t = model.nearest_t if whole_t else model.t
        self.timesteps = torch.tensor([to_t(sigma) for sigma in self.sigmas[:-1]], dtype=torch.float32)
        first = self.sigmas[0]
        self.init_noise_sigma = math.sqrt(1 + first**2) if unit_variance else first
        self._predicts_v = prediction == "v_prediction"
        self._index = 0
        self._previous: tuple[float, Tensor] | None = None

    def scale_model_input(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's input for x at the step that is next; `t` is not needed."""
        return x / math.sqrt(1 + self.sigmas[self._index] ** 2)

    def step(self, output: Tensor, t: Tensor, x: Tensor, *, return_dict: bool = False) -> tuple[Tensor]:
        """x at the next sigma, from the network's output at this one, as a tuple like diffusers' schedulers give it."""
        sigma, next_sigma = self.sigmas[self._index : self._index + 2]
        x, output = x.float(), output.float()
        if self._predicts_v:
            denoised = x / (1 + sigma**2) - output * sigma / math.sqrt(1 + sigma**2)
        else:
            denoised = x - sigma * output
        result = self.solver(Step(x, sigma, next_sigma, denoised, self._previous))
        self._previous = (sigma, denoised)
        self._index += 1
        return (result,)

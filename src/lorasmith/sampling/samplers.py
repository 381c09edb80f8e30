"""Samplers of diffusers under their common names."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.rectified_flow import RectifiedFlow
from lorasmith.diffusion.schedule import require_schedule
from lorasmith.sampling.flow_samplers import make_flow_scheduler
from lorasmith.sampling.sampler_names import ALIASES, SAMPLERS, Sampler, custom_samplers, find, find_key, sampler_names
from lorasmith.sampling.step_scheduler import StepScheduler

__all__ = ["ALIASES", "SAMPLERS", "Sampler", "find", "find_key", "make_scheduler", "sampler_names", "set_timesteps"]

MIN_ALPHA_CUMPROD = 2.0**-24
"""The lowest cumulative alpha that schedulers are given, which is diffusers' value; it is a sigma of 4096."""


def make_scheduler(name: str, path: DiffusionPath, prediction: str) -> Any:
    """A new scheduler for our path: of diffusers, or a plug-in's sampler.

    `prediction`: its kind, `epsilon` or `v_prediction` for a noise schedule.
    With a schedule that ends in pure noise, sampling starts exactly there (arXiv 2305.08891, section 3.3). Raises
    LorasmithError for an unknown name, for one that the path does not allow, or if the scheduler needs a library that
    is not installed.
    """
    custom = custom_samplers().get(find_key(name))
    if custom is not None:
        return StepScheduler(custom(), path, prediction_of_kind(prediction))
    import diffusers

    sampler = find(name)
    if isinstance(path, RectifiedFlow):
        return make_flow_scheduler(name, find_key(name), path)
    schedule = require_schedule(path, f'the sampler "{name}"')
    # diffusers takes betas: beta_t = 1 - abar_t / abar_(t-1), with abar_(-1) = 1
    abar = schedule.alphas_cumprod.double().cpu()
    previous = abar.roll(1)
    previous[0] = 1.0
    betas = 1 - abar / previous
    options: dict[str, Any] = {"steps_offset": 1}
    if float(abar[-1]) < MIN_ALPHA_CUMPROD:
        # zero terminal SNR: a tiny last abar keeps the first sigma finite, and trailing spacing starts at the last t
        betas[-1] = 1 - MIN_ALPHA_CUMPROD / abar[-2]
        options = {"timestep_spacing": "trailing"}
    options.update(sampler.options)
    options["num_train_timesteps"] = schedule.steps
    options["trained_betas"] = betas.tolist()
    try:
        scheduler = getattr(diffusers, sampler.scheduler)
        # schedulers differ in their options; each gets those that it has
        known = inspect.signature(scheduler.__init__).parameters
        supported = {key: value for key, value in options.items() if key in known}
        return scheduler(prediction_type=prediction, **supported)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise LorasmithError(f'the sampler "{name}" needs a library that is not installed: {reason}') from None


def set_timesteps(
    scheduler: Any, steps: int, device: torch.device | str = "cpu", path: DiffusionPath | None = None
) -> None:
    """Prepare a scheduler for one picture, or one batch, of this number of steps. `path`: that it was made for."""
    takes_sigmas = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    if isinstance(path, RectifiedFlow) and takes_sigmas and hasattr(scheduler, "set_shift"):
        scheduler.set_timesteps(sigmas=path.sampling_times(steps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # without it a scheduler looks its position up by t, which fails where two timesteps are equal
        scheduler.set_begin_index(0)


def initial_scale(scheduler: Any) -> float:
    """The standard deviation of the noise that a picture begins with. Flow schedulers have none: theirs is 1."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def scale_input(scheduler: Any, x: Tensor, t: Tensor) -> Tensor:
    """x as the network takes it: k-diffusion style schedulers scale it by sigma, flow schedulers do not have this."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x

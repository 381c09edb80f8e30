"""Samplers of diffusers under their common names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.schedule import require_schedule


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers with its options."""

    label: str
    """A1111's name, which is written into PNG files."""
    scheduler: str
    """Name of the class in diffusers."""
    options: Mapping[str, Any] = field(default_factory=dict)


_NO_CLIP = {"clip_sample": False}
SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIM", "DDIMScheduler", _NO_CLIP | {"set_alpha_to_one": False}),
    "ddpm": Sampler("DDPM", "DDPMScheduler", _NO_CLIP),
    "pndm": Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lms": Sampler("LMS", "LMSDiscreteScheduler"),
    "euler": Sampler("Euler", "EulerDiscreteScheduler"),
    "euler_a": Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    "heun": Sampler("Heun", "HeunDiscreteScheduler"),
    "dpm2": Sampler("DPM2", "KDPM2DiscreteScheduler"),
    "dpm2_a": Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    "dpm++_2m": Sampler("DPM++ 2M", "DPMSolverMultistepScheduler"),
    "dpm++_2m_karras": Sampler("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++_2m_sde": Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++_2m_sde_karras": Sampler(
        "DPM++ 2M SDE Karras",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++_2s": Sampler("DPM++ 2S", "DPMSolverSinglestepScheduler"),
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),
}
MIN_ALPHA_CUMPROD = 2.0**-24
"""The lowest cumulative alpha that schedulers are given, which is diffusers' value; it is a sigma of 4096."""
ALIASES = {
    "plms": "pndm",
    "dpm_2": "dpm2",
    "dpm_2_a": "dpm2_a",
    "dpmsolver": "dpm++_2m",
    "dpmsolver++": "dpm++_2m",
    "dpmsingle": "dpm++_2s",
    "dpm++_sde": "dpm++_2m_sde",
    "dpm++_sde_karras": "dpm++_2m_sde_karras",
    "uni_pc": "unipc",
}
"""Other accepted names; A1111's labels and sd-scripts' `k_` names need no entry here."""


def find(name: str) -> Sampler:
    """The sampler of a name in our, A1111's or sd-scripts' spelling. Raises LorasmithError for an unknown name."""
    # A1111 writes "Euler a", sd-scripts writes "k_euler_a"
    key = name.strip().lower().replace(" ", "_").removeprefix("k_")
    sampler = SAMPLERS.get(ALIASES.get(key, key))
    if sampler is None:
        hint = did_you_mean(key, [*SAMPLERS, *ALIASES])
        known = ", ".join(SAMPLERS)
        raise LorasmithError(f'no sampler is called "{name}"; {f"{hint} " if hint else ""}known samplers: {known}')
    return sampler


def make_scheduler(name: str, path: DiffusionPath, prediction: str) -> Any:
    """A new diffusers scheduler with our noise schedule. `prediction`: `epsilon` or `v_prediction`.

    With a schedule that ends in pure noise, sampling starts exactly there (arXiv 2305.08891, section 3.3). Raises
    LorasmithError for an unknown name, for a path that is not DDPM's, or if the scheduler needs a library that is not
    installed.
    """
    import diffusers

    sampler = find(name)
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


def set_timesteps(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> None:
    """Prepare a scheduler for one picture, or one batch, of this number of steps."""
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # without it a scheduler looks its position up by t, which fails where two timesteps are equal
        scheduler.set_begin_index(0)

"""Samplers by the names that people know, from diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Sampler:
    """`label` is A1111's name, which PNG files carry; `scheduler` the class in diffusers."""

    label: str
    scheduler: str
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
DARKEST = 2.0**-24
"""The least abar that samplers get, as diffusers has it: sigma 4096."""
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
"""What else people write; A1111's labels and sd-scripts' `k_` names need no entry."""


def find(name: str) -> Sampler:
    """The sampler that a name means, in our spelling, A1111's or sd-scripts'. Raises LorasmithError if none does."""
    plain = name.strip().lower().replace(" ", "_").removeprefix("k_")
    found = SAMPLERS.get(ALIASES.get(plain, plain))
    if found is None:
        hint = did_you_mean(plain, [*SAMPLERS, *ALIASES])
        raise LorasmithError(
            f'no sampler is called "{name}"; {f"{hint} " if hint else ""}there are {", ".join(SAMPLERS)}'
        )
    return found


def make(name: str, schedule: NoiseSchedule, prediction: str) -> Any:
    """A fresh diffusers scheduler over our noise schedule.

    Over a schedule that ends in pure noise it starts exactly there (arXiv 2305.08891, section 3.3). Raises
    LorasmithError for an unknown name, or if diffusers lacks a library for it.
    """
    import diffusers

    sampler = find(name)
    abar = schedule.alphas_cumprod.double().cpu()
    betas = 1 - abar / abar.roll(1).index_fill(0, abar.new_zeros(1).long(), 1.0)
    options: dict[str, Any] = {"steps_offset": 1}
    if float(abar[-1]) < DARKEST:  # keeps the first sigma finite
        betas[-1] = 1 - DARKEST / abar[-2]
        options = {"timestep_spacing": "trailing"}
    options |= {**sampler.options, "num_train_timesteps": schedule.steps, "trained_betas": betas.tolist()}
    try:
        scheduler = getattr(diffusers, sampler.scheduler)
        known = inspect.signature(scheduler.__init__).parameters
        return scheduler(prediction_type=prediction, **{k: v for k, v in options.items() if k in known})
    except ImportError as error:
        raise LorasmithError(
            f'the sampler "{name}" needs a library that is not installed: {str(error).strip().splitlines()[0]}'
        ) from None


def start(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> None:
    """Lay out the timesteps of one picture."""
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):  # else it searches for its place, and is lost where two t are equal
        scheduler.set_begin_index(0)

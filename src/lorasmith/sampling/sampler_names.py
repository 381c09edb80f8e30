"""The names of samplers: ours, A1111's and sd-scripts'. This file imports no torch: the studio lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.registry import registered
from lorasmith.sampling.custom.base import Sampler as CustomSampler


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers with its options; for a plug-in's sampler, its label alone."""

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
    key = find_key(name)
    kind = custom_samplers().get(key)
    return SAMPLERS[key] if kind is None else Sampler(kind().label, "")


def custom_samplers() -> dict[str, type[CustomSampler]]:
    """The samplers that plug-ins have added, by name. A name that we have already is ours."""
    return {kind: sampler for kind, sampler in registered(CustomSampler).items() if kind not in SAMPLERS}


def sampler_names() -> list[str]:
    """Our names of all samplers, those of plug-ins last."""
    return [*SAMPLERS, *custom_samplers()]


def find_key(name: str) -> str:
    """Our name of a sampler, from any spelling. Raises LorasmithError for an unknown name."""
    # A1111 writes "Euler a", sd-scripts writes "k_euler_a"
    key = name.strip().lower().replace(" ", "_").removeprefix("k_")
    ours = ALIASES.get(key, key)
    if ours not in SAMPLERS and ours not in custom_samplers():
        hint = did_you_mean(key, [*sampler_names(), *ALIASES])
        known = ", ".join(sampler_names())
        raise LorasmithError(f'no sampler is called "{name}"; {f"{hint} " if hint else ""}known samplers: {known}')
    return ours

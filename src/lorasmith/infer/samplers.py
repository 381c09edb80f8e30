"""Samplers by the names that people know, from diffusers."""

from __future__ import annotations

from typing import Any

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.diffusion.schedule import NoiseSchedule

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "lms": ("LMSDiscreteScheduler", {"steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"steps_offset": 1}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {"steps_offset": 1}),
    "heun": ("HeunDiscreteScheduler", {"steps_offset": 1}),
    "dpm2": ("KDPM2DiscreteScheduler", {"steps_offset": 1}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {"steps_offset": 1}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", {"steps_offset": 1}),
    "dpm++_2m_karras": ("DPMSolverMultistepScheduler", {"steps_offset": 1, "use_karras_sigmas": True}),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"steps_offset": 1, "algorithm_type": "sde-dpmsolver++"}),
    "dpm++_s": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"steps_offset": 1}),
}


def make(name: str, schedule: NoiseSchedule, prediction: str) -> Any:
    """A fresh diffusers scheduler over our noise schedule. Raises LorasmithError for an unknown name."""
    if name not in SAMPLERS:
        raise LorasmithError(
            f'no sampler is called "{name}". {did_you_mean(name, SAMPLERS)} There are: {", ".join(SAMPLERS)}'
        )
    import diffusers

    class_name, options = SAMPLERS[name]
    alphas = schedule.alphas_cumprod.double().cpu()
    betas = 1 - alphas / alphas.new_ones(1).new_tensor([1.0, *alphas[:-1].tolist()])
    terminal = float(alphas[-1]) < 1e-6
    if terminal:  # pure noise at the end: start exactly there, and keep sigmas finite
        options = options | {"timestep_spacing": "trailing"}
        betas = betas.clamp(max=0.9999)
    return getattr(diffusers, class_name)(
        num_train_timesteps=schedule.steps, trained_betas=betas.tolist(), prediction_type=prediction, **options
    )

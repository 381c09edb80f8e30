"""Samplers of flow-matching models: diffusers' schedulers on the straight path, with the model's shift."""

from __future__ import annotations

from typing import Any

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.diffusion.rectified_flow import RectifiedFlow

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOW_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    # on a straight path, DDIM's step is Euler's
    "ddim": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", _FLOW),
    "dpm++_2m_sde": ("DPMSolverMultistepScheduler", _FLOW | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
}
"""Our name to the class in diffusers and its options."""


def make_flow_scheduler(name: str, key: str, path: RectifiedFlow) -> Any:
    """A new diffusers scheduler with the shift of `path`. `name`: as the user wrote it; `key`: our spelling of it.

    Raises LorasmithError if it is not a sampler of flow-matching models.
    """
    import diffusers

    if key not in FLOW_SAMPLERS:
        hint = did_you_mean(key, FLOW_SAMPLERS)
        raise LorasmithError(
            f'the sampler "{name}" cannot draw with a flow-matching model (Stable Diffusion 3, Flux); '
            f"{f'{hint} ' if hint else ''}those that can are {', '.join(FLOW_SAMPLERS)}"
        )
    class_name, options = FLOW_SAMPLERS[key]
    shift = "flow_shift" if options else "shift"
    return getattr(diffusers, class_name)(num_train_timesteps=path.steps, **options, **{shift: path.shift})

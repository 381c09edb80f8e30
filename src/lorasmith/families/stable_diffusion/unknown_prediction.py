"""What a base predicts where neither its tensors nor its configs say so: a YAML beside it, or one pass of its UNet.

The single files of Stable Diffusion 2.x have the same names and shapes whether they predict epsilon (the models for 512
pixels) or v (those for 768). Their authors published a YAML file for each.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_text
from lorasmith.core.yaml_files import parse_yaml
from lorasmith.families.fingerprint import cached_text
from lorasmith.families.reader import fill
from lorasmith.families.stable_diffusion.completeness import empty_unet

if TYPE_CHECKING:
    from lorasmith.families.stable_diffusion.source import StableDiffusionSource

V_BELOW = -1.0
"""A UNet of v has a mean of output - input below this, for an input of 0.5 everywhere at the last timestep.

At the last timestep the input counts as noise: what predicts the noise returns about its input; what predicts v returns
about -x0. Threshold and input are those of A1111 (`sd_models_config.py`), which tells the published models apart.
"""
ANSWERS = ("epsilon", "v_prediction", "unknown")


def yaml_prediction(file: Path) -> str | None:
    """The prediction that a YAML file beside a checkpoint names (`model.params.parameterization`); None if there is no
    such file. The original's default is epsilon. Files that are something else are passed over."""
    for suffix in (".yaml", ".yml"):
        path = file.with_suffix(suffix)
        with suppress(LorasmithError, OSError):
            content: Any = parse_yaml(read_text(path), path)
            model = content.get("model") if isinstance(content, dict) else None
            parameters = model.get("params") if isinstance(model, dict) else None
            if isinstance(parameters, dict):
                return "v_prediction" if parameters.get("parameterization", "eps") == "v" else "epsilon"
    return None


def probed_prediction(source: StableDiffusionSource) -> str:
    """`epsilon`, `v_prediction` or `unknown`, by one pass of the UNet at 8 x 8. The answer for a file is stored.

    `unknown`: the UNet is incomplete, or its output says nothing.
    """
    try:
        refs = source.raw("unet")
    except LorasmithError:
        return "unknown"
    files = {ref.path for ref in refs.values()}
    return cached_text(files, "prediction of the UNet", lambda: probe(source), ANSWERS.__contains__)


def probe(source: StableDiffusionSource) -> str:
    """Run the UNet once on the CPU, in bfloat16, for which half the memory of a training suffices."""
    device, dtype = torch.device("cpu"), torch.bfloat16
    try:
        unet, refs = empty_unet(source)
        fill(unet, refs, dtype, device, "UNet", source.where("unet"))
    except LorasmithError:
        return "unknown"
    unet.like = torch.empty(0, dtype=dtype, device=device)
    latent = torch.full((1, 4, 8, 8), 0.5, dtype=dtype)
    context = torch.full((1, 2, source.context_width), 0.5, dtype=dtype)
    with torch.inference_mode():
        output = unet.eval()(latent, torch.tensor([999]), context)
    return prediction_of_output(latent, output)


def prediction_of_output(latent: Tensor, output: Tensor) -> str:
    """What a network predicts, by its output for an input of 0.5 everywhere at the last timestep."""
    says_nothing = not bool(output.isfinite().all()) or not bool(output.any())
    if says_nothing:
        return "unknown"
    return "v_prediction" if float((output - latent).float().mean()) < V_BELOW else "epsilon"

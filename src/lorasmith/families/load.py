"""Loading a base model: `load` and `identify` are what the rest of Lorasmith calls."""

from __future__ import annotations

from pathlib import Path

import torch

from lorasmith.families.resolve import BaseInfo, find, identify, with_vae
from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.families.stable_diffusion.sd1 import SD1
from lorasmith.families.stable_diffusion.sd2 import SD2
from lorasmith.families.stable_diffusion.sdxl import SDXL

__all__ = ["BaseInfo", "identify", "load"]

_FAMILIES: dict[str, type[StableDiffusion]] = {cls.kind: cls for cls in (SD1, SD2, SDXL)}


def load(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    family: str | None = None,
    vae: str = "",
) -> StableDiffusion:
    """The base model that `source` names: `tiny-sd`, a diffusers folder, a hub id, or one original-layout file.

    `dtype` None: bfloat16 for full-size models, float32 for UNets under 100 M weights. `family` (`sd1`, `sd2`, `sdxl`)
    overrides what the files say. `vae`: another VAE in the place of its own (`resolve.with_vae`). Raises LorasmithError
    if nothing suitable is there, or if it is not whole.
    """
    base = find(source, family)
    base = with_vae(base, vae) if vae else base
    return _FAMILIES[base.kind](base, dtype, device)

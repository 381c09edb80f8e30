"""Loading a base model: `load` and `identify` are what the rest of Lorasmith calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorasmith.families.registry import loader_of
from lorasmith.families.resolve import BaseInfo, find, identify, with_parts, with_vae

if TYPE_CHECKING:
    from lorasmith.families.base import Family
    from lorasmith.families.source import Source

__all__ = ["BaseInfo", "identify", "load", "open_base"]


def open_base(source: str | Path, *, family: str | None = None, vae: str = "", parts: Sequence[str] = ()) -> Source:
    """The parts of the base model that `source` names, with the VAE that `vae` names if that is not empty.

    `parts`: files and folders with the parts that a single file of Flux or SD3 lacks. Only headers and configs are
    read. Raises LorasmithError if there is no base model at `source`, no VAE at `vae`, or no part at one of `parts`.
    """
    base = with_parts(find(source, family), parts)
    return with_vae(base, vae) if vae else base


def load(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    family: str | None = None,
    vae: str = "",
    parts: Sequence[str] = (),
) -> Family:
    """The base model that `source` names: an embedded one, a diffusers folder, a hub id, or one original-layout file.

    `dtype` None: bfloat16 for full-size models, float32 for denoisers under 100 M weights. `family` (`sd1`, `sd2`,
    `sdxl`, `sd3`, `flux`) overrides detection. `vae`: another VAE in place of the base's (`resolve.with_vae`). `parts`:
    as in `open_base`. Raises LorasmithError if there is no base model at `source`, or if it is incomplete.
    """
    base = open_base(source, family=family, vae=vae, parts=parts)
    return loader_of(base.kind).load(base, dtype, device)

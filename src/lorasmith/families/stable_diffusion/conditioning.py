"""The names of Stable Diffusion's conditioning tensors, and what is added to them for one pass of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lorasmith.families.conditioning import CONTEXT, Conditioning
from lorasmith.families.stable_diffusion.steering import Regions, Residuals

POOLED = "pooled"
"""SDXL's pooled text, (B, 1280)."""
TIME_IDS = "time_ids"
"""SDXL's sizes, (B, 6)."""
NEW_TOKEN_INDEX = "new_token_index"
"""(B, tokens) int64: 0 for a token of the model, k for the k-th vector of the new tokens, from 1."""


def text_conditioning(
    context: Tensor, pooled: Tensor | None = None, new_token_index: Tensor | None = None
) -> Conditioning:
    """What the text encoders give; what is None is left out."""
    tensors = {CONTEXT: context}
    if pooled is not None:
        tensors[POOLED] = pooled
    if new_token_index is not None:
        tensors[NEW_TOKEN_INDEX] = new_token_index
    return Conditioning(tensors)


@dataclass(frozen=True)
class SteeredConditioning(Conditioning):
    """A conditioning with regions and residuals, for one pass of the network or for the pictures that are drawn
    together. `rows`, `to` and `concat` leave both out."""

    regions: Regions | None = None
    """Prompts for parts of the picture."""
    residuals: Residuals | None = None
    """What ControlNets, T2I-Adapters and conditions add inside the UNet."""


def steer(
    conditioning: Conditioning, *, regions: Regions | None = None, residuals: Residuals | None = None
) -> SteeredConditioning:
    """`conditioning` with regions or residuals added. New residuals are added to those that it has already."""
    if not isinstance(conditioning, SteeredConditioning):
        conditioning = SteeredConditioning(conditioning.tensors)
    if residuals is not None and conditioning.residuals is not None:
        residuals = conditioning.residuals + residuals
    return replace(
        conditioning,
        regions=regions or conditioning.regions,
        residuals=residuals or conditioning.residuals,
    )

"""Which layers of Stable Diffusion adapters sit on."""

from __future__ import annotations

from collections.abc import Mapping

_ATTENTION = (
    "unet.*.attn[12].to_q",
    "unet.*.attn[12].to_k",
    "unet.*.attn[12].to_v",
    "unet.*.attn[12].to_out.0",
    "te*.self_attn.*_proj",
)
_ATTENTION_MLP = ("unet.*.attentions.*", "te*.self_attn.*_proj", "te*.mlp.fc[12]")
_RESIDUAL = ("unet.*.resnets.*", "unet.*.downsamplers.*", "unet.*.upsamplers.*")
PRESETS: Mapping[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention-mlp": _ATTENTION_MLP,
    "full": (*_ATTENTION_MLP, *_RESIDUAL),
}
"""Fnmatch patterns on layer names; see Family.layer_presets."""

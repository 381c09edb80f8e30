"""The sizes of the published models of each family, for forecasts without a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.families.network_shape import NetworkShape
from lorasmith.families.stable_diffusion.layer_names import layers, published_unet
from lorasmith.families.stable_diffusion.presets import PRESETS

FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
"""Flux.1 dev."""
SD35_MEDIUM: dict[str, Any] = {
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}


@dataclass(frozen=True)
class PublishedModel:
    """What a forecast needs of a model."""

    network: NetworkShape
    parameters: int
    """Weights of the denoiser."""
    text_parameters: int
    """Weights of the text encoders that stay in memory while they are trained."""
    layers: tuple[LayerSpec, ...]
    presets: Mapping[str, tuple[str, ...]]
    denoiser: str
    """The component name of the denoiser."""


@lru_cache
def published_model(kind: str) -> PublishedModel:
    """The published model of a family. Raises KeyError for a family without one."""
    return _MODELS[kind](kind)


_UNETS = {"sd1": (859_520_964, 123_060_480), "sd2": (865_910_724, 340_387_840), "sdxl": (2_567_463_684, 817_719_552)}
"""Weights of the published UNets and of their text encoders."""


def _stable_diffusion(kind: str) -> PublishedModel:
    parameters, text_parameters = _UNETS[kind]
    return PublishedModel(published_unet(kind), parameters, text_parameters, layers(kind), PRESETS, "unet")


def _flux(kind: str) -> PublishedModel:
    from lorasmith.families.flux.network import FluxNetwork
    from lorasmith.families.flux.source import FluxSource, shape_of_config

    with torch.device("meta"):
        return _of_transformer(FluxNetwork(**FLUX), shape_of_config(FLUX), FluxSource.layer_presets)


def _sd3(kind: str) -> PublishedModel:
    from lorasmith.families.sd3.mmdit import MMDiT
    from lorasmith.families.sd3.source import SD3Source, shape_of_config

    with torch.device("meta"):
        return _of_transformer(MMDiT(**SD35_MEDIUM), shape_of_config(SD35_MEDIUM), SD3Source.layer_presets)


def _of_transformer(model: nn.Module, network: NetworkShape, presets: Mapping[str, tuple[str, ...]]) -> PublishedModel:
    specs = [spec_of(f"transformer.{path}", module) for path, module in model.named_modules()]
    parameters = sum(p.numel() for p in model.parameters())
    return PublishedModel(network, parameters, 0, tuple(s for s in specs if s is not None), presets, "transformer")


_MODELS: dict[str, Callable[[str], PublishedModel]] = {
    **dict.fromkeys(_UNETS, _stable_diffusion),
    "flux": _flux,
    "sd3": _sd3,
}

"""How many floating-point operations a step of training needs, by counting its matrix products and convolutions.

Counted on tensors without memory, forward and backward, with plain operations: what a step computes twice to save
memory does not count. This is the usual base of the utilisation of a device (model FLOPs; PaLM, arXiv 2204.02311,
appendix B).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.families.load import open_base
from lorasmith.families.stable_diffusion.clip_family import layers_of
from lorasmith.families.stable_diffusion.completeness import empty_unet
from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.families.stable_diffusion.source import StableDiffusionSource
from lorasmith.families.transformer_models.shape import TransformerShape
from lorasmith.families.transformer_models.source import TransformerSource
from lorasmith.training.bench.workload import Workload

Presets = Mapping[str, tuple[str, ...]]
"""Names of choices of layers, and the patterns that they stand for."""

SIZES = 6
"""Numbers that tell SDXL the sizes of an image."""


def flops_of_step(workload: Workload) -> int:
    """Of one step with LoRA of the workload's rank on its layers, whatever its kind of adapter is. 0: not known for a
    base of this kind."""
    base = open_base(workload.base)
    if isinstance(base, StableDiffusionSource):
        network, inputs, presets = _unet(base, workload.resolution)
    elif isinstance(base, TransformerSource):
        network, inputs, presets = _transformer(base, workload.resolution)
    else:
        return 0
    network.requires_grad_(False)
    settings = LoRA.model_validate({"rank": workload.rank, "layers": workload.adapter.get("layers", "attention")})
    AdapterSet.create(settings, layers_of(network, base.denoiser_component), presets, seed=0).attach()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(*(tensor.to("meta") for tensor in inputs)).sum().backward()
    return counter.get_total_flops() * workload.batch


def _unet(base: StableDiffusionSource, resolution: int) -> tuple[nn.Module, list[Tensor], Presets]:
    """The UNet without memory, inputs of its shapes, and its choices of layers."""
    unet, _ = empty_unet(base)
    unet.like = torch.empty(0, device="meta")
    side, config = resolution // DOWNSCALE, base.unet_config
    inputs = [torch.empty(1, 4, side, side), torch.empty(1), torch.empty(1, 77, config.context)]
    if config.pooled:
        inputs += [torch.empty(1, config.pooled - SIZES * config.size_embed), torch.empty(1, SIZES)]
    return unet, inputs, StableDiffusion.layer_presets


def _transformer(base: TransformerSource, resolution: int) -> tuple[nn.Module, list[Tensor], Presets]:
    """The transformer without memory, inputs of its shapes, and its choices of layers."""
    with torch.device("meta"):
        transformer = base.empty_denoiser()
    config, side = base.config(base.denoiser_component), resolution // DOWNSCALE
    channels = int(base.config("vae")["latent_channels"])
    pooled = torch.empty(1, int(config["pooled_projection_dim"]))
    text_tokens = cast(TransformerShape, base.network_shape).text_tokens
    text = torch.empty(1, text_tokens, base.context_width)
    inputs = [torch.empty(1, channels, side, side), torch.empty(1), text, pooled]
    if config.get("guidance_embeds"):
        inputs.append(torch.empty(1))
    return transformer, inputs, base.layer_presets

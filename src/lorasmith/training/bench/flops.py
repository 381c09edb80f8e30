"""How many floating-point operations a step of training needs, by counting its matrix products and convolutions.

Counted on tensors without memory, forward and backward, with plain operations: what a step computes twice to save
memory does not count. This is the usual base of the utilisation of a device (model FLOPs; PaLM, arXiv 2204.02311,
appendix B).
"""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.families.load import open_base
from lorasmith.families.stable_diffusion.clip_family import layers_of
from lorasmith.families.stable_diffusion.completeness import empty_unet
from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.families.stable_diffusion.source import StableDiffusionSource
from lorasmith.training.bench.workload import Workload

SIZES = 6
"""Numbers that tell SDXL the sizes of an image."""


def flops_of_step(workload: Workload) -> int:
    """Of one step with LoRA of the workload's rank on its layers, whatever its kind of adapter is. 0: not known for a
    base of this kind."""
    base = open_base(workload.base)
    if not isinstance(base, StableDiffusionSource):
        return 0
    unet, _ = empty_unet(base)
    unet.requires_grad_(False)
    unet.like = torch.empty(0, device="meta")
    settings = LoRA.model_validate({"rank": workload.rank, "layers": workload.adapter.get("layers", "attention")})
    presets = StableDiffusion.layer_presets
    AdapterSet.create(settings, layers_of(unet, "unet"), presets, seed=0).attach()

    side, config = workload.resolution // 8, base.unet_config
    inputs = [torch.empty(1, 4, side, side), torch.empty(1), torch.empty(1, 77, config.context)]
    if config.pooled:
        inputs += [torch.empty(1, config.pooled - SIZES * config.size_embed), torch.empty(1, SIZES)]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        unet(*(tensor.to("meta") for tensor in inputs)).sum().backward()
    return counter.get_total_flops() * workload.batch

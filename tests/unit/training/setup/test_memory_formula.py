"""The memory formula on networks of full size, whose passes run on tensors without memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.families.stable_diffusion.clip_family import layers_of
from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.families.stable_diffusion.layer_names import published_unet
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.training.setup.memory_estimate import StepShape, activations

SIZES = 6
"""Numbers that tell SDXL the sizes of an image."""


class FusedAttention(torch.autograd.Function):
    """Keeps what the fused kernels keep: queries, keys, values and the result."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(tensors[0])
        ctx.save_for_backward(*tensors, out)
        return out


@pytest.fixture(autouse=True)
def _fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: FusedAttention.apply(q, k, v))


def kept_bytes(kind: str, side: int) -> int:
    """What autograd keeps of one image in a forward pass in bf16, by storages, without parameters."""
    config = published_unet(kind)
    storages: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        unet = UNet(config).to(torch.bfloat16).requires_grad_(False)
        inputs = [torch.empty(1, 4, side, side), torch.empty(1), torch.empty(1, 77, config.context)]
        if config.pooled:
            inputs += [torch.empty(1, config.pooled - SIZES * config.size_embed), torch.empty(1, SIZES)]
    layers = layers_of(unet, "unet")
    adapters = AdapterSet.create(LoRA(rank=16, layers="attention"), layers, StableDiffusion.layer_presets, seed=0)
    adapters.attach().train()
    parameters = {p.untyped_storage()._cdata for p in [*unet.parameters(), *adapters.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = unet(*(tensor.to(torch.bfloat16) for tensor in inputs))
    assert out.requires_grad
    return sum(size for storage, size in storages.items() if storage not in parameters)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side"), [("sd1", 64), ("sd2", 96), ("sdxl", 128)])
def test_the_estimate_is_near_what_a_step_of_full_size_keeps(kind: str, side: int) -> None:
    kept = kept_bytes(kind, side)
    estimate = activations(published_unet(kind), StepShape(side, side, 1, 2), 0)
    assert 0.7 * kept < estimate < 1.6 * kept, (kept / 2**30, estimate / 2**30)

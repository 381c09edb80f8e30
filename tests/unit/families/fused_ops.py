"""A UNet with LoRA, computed by the plain operations and by the fused ones, for the tests of both kinds of device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.core.registry import registered
from lorasmith.families import ops
from lorasmith.families.ops import frozen_conv
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

LAYERS: dict[str, tuple[str, ...]] = {
    "attention": ("*attn*",),
    "all linear": ("*attn*", "*ff*", "*proj_*", "*shortcut*", "*time_emb*"),
    "all": ("*",),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 2},
    "dylora": {"rank": 6, "alpha": 2, "unit": 2, "boost": 0.5},
}
STEP = 1
"""One in which DyLoRA draws its second block of three."""


class Example:
    """A small UNet with adapters that change its output, and one batch for it."""

    def __init__(
        self, device: str, dtype: torch.dtype, layers: str, *, linear_projection: bool, kind: str = "lora"
    ) -> None:
        torch.manual_seed(0)
        frozen_conv.SMALLEST = 0
        config = UNetConfig(
            channels=(16, 32),
            depths=(1, 1),
            heads=(2, 2),
            context=12,
            layers=1,
            groups=8,
            linear_projection=linear_projection,
        )
        unet = UNet(config).requires_grad_(False)
        for parameter in unet.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        memory = torch.channels_last if device == "cuda" else torch.contiguous_format
        self.unet = unet.to(device=device, dtype=dtype).to(memory_format=memory)  # pyright: ignore[reportCallIssue]
        self.adapters = self._adapters(layers, kind)
        generator = torch.Generator().manual_seed(1)
        draw: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
        self.x, self.context, self.weight = draw(2, 4, 4, 6), draw(2, 3, 12), draw(2, 4, 4, 6)
        self.t = torch.tensor([3, 700], device=device)

    def _adapters(self, layers: str, kind: str) -> AdapterSet:
        places: dict[str, tuple[nn.Module, str]] = {}
        for name, module in self.unet.named_modules():
            for child, layer in module.named_children():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    places[f"unet.{name}.{child}"] = (module, child)
        settings = {"layers": LAYERS[layers]} | SETTINGS[kind]
        adapters = AdapterSet.create(registered(AdapterConfig)[kind].model_validate(settings), places, {}, seed=0)
        for parameter in adapters.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape).to(parameter.device)
        adapters.use_same_operations()
        adapters.begin_step(seed=0, step=STEP)
        adapters.attach().train()
        return adapters

    def results(self, *, fused: bool) -> list[Tensor]:
        """The output, the output without adapters, and the gradients of all factors."""
        before = ops.ENABLED
        ops.ENABLED = fused
        try:
            for parameter in self.adapters.parameters():
                parameter.grad = None
            output = self.unet(self.x, self.t, self.context).float()
            (output * self.weight).sum().backward()
            with torch.no_grad(), self.adapters.enabled(False):
                base_output = self.unet(self.x, self.t, self.context).float()
        finally:
            ops.ENABLED = before
        gradients = [parameter.grad for parameter in self.adapters.parameters()]
        return [output.detach(), base_output, *[g.clone() for g in gradients if g is not None]]


def largest_error(results: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of the relative errors of all tensors."""
    assert len(results) == len(expected)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(results, expected, strict=True))

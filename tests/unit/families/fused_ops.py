"""A UNet with LoRA, computed by the plain operations and by the fused ones, for the tests of both kinds of device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
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
SETTINGS |= {kind: {"rank": 3, "alpha": 2} for kind in ("dora", "loha", "lokr", "glora", "tlora")}
SETTINGS |= {"oft": {"block_size": 4}, "boft": {"block_size": 4}, "ia3": {}}
SETTINGS |= {"dora of outputs": {"kind": "dora", "rank": 3, "axis": "output", "over": "loha"}}
STEP = 1
"""One in which DyLoRA draws its second block of three."""


class Example:
    """A small UNet with adapters that change its output, and one batch for it."""

    def __init__(self, device: str, dtype: torch.dtype, layers: str, *, linear_projection: bool) -> None:
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
        self.adapters = adapters_on(self.unet, "lora", LAYERS[layers])
        generator = torch.Generator().manual_seed(1)
        draw: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
        self.x, self.context, self.weight = draw(2, 4, 4, 6), draw(2, 3, 12), draw(2, 4, 4, 6)
        self.t = torch.tensor([3, 700], device=device)

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


class AttentionExample:
    """The projections of two attention layers with adapters of a kind, and one batch for them."""

    def __init__(self, kind: str, device: str) -> None:
        torch.manual_seed(0)
        self.network: Any = nn.Module()
        self.network.norm = nn.LayerNorm(16)
        for name in ("q", "k", "v", "out", "second", "bare"):
            self.network.add_module(name, nn.Linear(16, 16, bias=name == "out"))
        self.network.requires_grad_(False).to(device)
        self.adapters = adapters_on(self.network, kind, ("*", "!*.bare"))
        self.x = torch.randn(2, 3, 16).to(device).requires_grad_()
        self.weight = torch.randn(2, 3, 16).to(device)

    def results(self, *, one_pass: bool = True, changes: bool = True) -> list[Tensor]:
        """The output and the gradients of the input and of all parameters. `one_pass`: whether the layers know that
        they belong to one network; `changes`: whether there is memory for changes of whole weights."""
        network = self.network
        with ops.one_refresh(network, self.x, changes=changes) if one_pass else nullcontext():
            total, q, k, v = ops.add_ln_project(network.norm, [network.q, network.k, network.v], self.x)
            branch = ops.linear(network.out, q * k + v)
            total, second = ops.add_ln_project(network.norm, [network.second], total, branch)
            second = ops.linear(network.bare, second)
        trained = [self.x, *self.adapters.parameters()]
        gradients = torch.autograd.grad(((total + second) * self.weight).sum(), trained, allow_unused=True)
        return [second.detach(), *[gradient for gradient in gradients if gradient is not None]]


def adapters_on(network: nn.Module, kind: str, layers: tuple[str, ...]) -> AdapterSet:
    """Adapters of one of `SETTINGS` on linear layers and convolutions, with random numbers in them, in training."""
    places: dict[str, tuple[nn.Module, str]] = {}
    for name, module in network.named_modules():
        for child, layer in module.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                places[f"unet.{name}.{child}"] = (module, child)
    settings = {"kind": kind, "layers": layers} | SETTINGS[kind]
    config = registered(AdapterConfig)[settings["kind"]].model_validate(settings)
    adapters = AdapterSet.create(config, places, {}, seed=0)
    for parameter in adapters.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape).to(parameter.device)
    adapters.use_same_operations()
    adapters.begin_step(seed=0, step=STEP)
    adapters.attach().train()
    return adapters


def largest_error(results: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of the relative errors of all tensors."""
    assert len(results) == len(expected)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(results, expected, strict=True))

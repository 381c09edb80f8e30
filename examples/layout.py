"""A condition: a picture of where the subject is, added inside the UNet, as a T2I-Adapter does (arXiv 2302.08453)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lorasmith.conditions import Condition, ConditionEncoder
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import steer
from lorasmith.families.stable_diffusion.steering import Residuals
from lorasmith.families.stable_diffusion.unet import UNet


class LayoutEncoder(ConditionEncoder):
    """Features of the picture for each level of the UNet's way down, where they are added.

    The last layers begin as zeros, so that training begins with the pictures of the base.
    """

    def __init__(self, family: Family, unet: UNet, hidden: int, dropout: float) -> None:
        """`hidden`: channels of the features; `dropout`: see `Layout`."""
        super().__init__()
        self.path, self.dropout = family.path, dropout
        # A level without attention gets its residual after it has halved the size, the others before.
        self.halvings = [
            index + (level.attentions is None and level.downsamplers is not None)
            for index, level in enumerate(unet.down_blocks)
        ]
        self.first = nn.Conv2d(3, hidden, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(hidden, hidden, 3, padding=1) for _ in self.halvings])
        self.last = nn.ModuleList([nn.Conv2d(hidden, channels, 1) for channels in unet.config.channels])
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, picture: Tensor, x_t: Tensor, t: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        """`picture`: (B, 3, H / 8, W / 8) in 0..1. x_t is not changed."""
        if self.training:
            kept = torch.rand(len(picture), 1, 1, 1, device=picture.device) >= self.dropout
            picture = picture * kept
        # Where there is little noise, x_t itself shows where the subject is.
        strength = self.path.sigma(t, x_t) ** 4
        features = self.first(2 * picture - 1)
        levels: list[Tensor] = []
        for halvings, block, last in zip(self.halvings, self.blocks, self.last, strict=True):
            height, width = (-(-side // 2**halvings) for side in x_t.shape[-2:])
            features = F.adaptive_avg_pool2d(features, (height, width))
            features = features + block(F.silu(features))
            levels.append(strength * last(F.silu(features)))
        return x_t, steer(conditioning, residuals=Residuals(levels=levels))


class Layout(Condition):
    """Where the subject is: white; the rest is black. For models with a UNet (Stable Diffusion 1.x, 2.x, SDXL)."""

    kind: Literal["layout"] = "layout"
    lr: float = Field(default=5e-3, ge=0)
    """The learning rate of its parameters."""
    hidden: int = Field(default=64, ge=1)
    """Channels of its features."""
    dropout: float = Field(default=0.1, ge=0, le=1)
    """The share of training images that are seen without their picture, so that the LoRA can be drawn without one."""

    def build(self, family: Family) -> LayoutEncoder:
        """A new encoder. Raises LorasmithError for a base without a UNet."""
        unet = family.denoiser
        if not isinstance(unet, UNet):
            raise LorasmithError(
                f"condition {self.called}: this {family.kind} base has no UNet; use a base of Stable Diffusion 1.x, "
                "2.x or SDXL, or leave the condition out"
            )
        return LayoutEncoder(family, unet, self.hidden, self.dropout)

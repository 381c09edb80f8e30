"""The encoder of a condition, as a torch module. `base.py` has the settings that build it, which need no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from lorasmith.families.base import Conditioning


class ConditionEncoder(nn.Module, ABC):
    """Puts the picture of a condition into the inputs of the network. Its parameters are trained with the LoRA.

    Anything drawn in training (dropout, an empty picture now and then) must come from torch's global generator, which
    is seeded for each micro-batch. `self.training` is False in previews and when pictures are sampled.
    """

    @abstractmethod
    def forward(
        self, picture: Tensor, x_t: Tensor, t: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        """The x_t and the conditioning that the network gets.

        `picture`: (B, 3, H / scale, W / scale) float32 in 0..1, for images of H x W pixels. `x_t`: (B, C, H / 8, W / 8)
        float32. `t`: (B,). With guidance, the batch holds the prompts and then the negative prompts, all with their
        pictures. `steer(conditioning, residuals=...)` adds inside a UNet (`families/stable_diffusion`),
        `conditioning.with_tokens` adds tokens to the text, `x_t + ...` adds to the latents.
        """

    def __call__(self, *args: Any) -> tuple[Tensor, Conditioning]:
        """`forward`, with its types."""
        return super().__call__(*args)

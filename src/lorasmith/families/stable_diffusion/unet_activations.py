"""What autograd saves of a UNet, block by block, in multiples of what enters a block.

The multiples are those of this UNet with LoRA on its attentions; a test compares them with what a real pass saves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorasmith.families.network_shape import BlockActivations

if TYPE_CHECKING:
    from lorasmith.families.stable_diffusion.unet_config import UNetConfig

RESNET_SAVES = 2.0
"""What a residual block saves: this many times its input and its output, each before a norm and before SiLU."""
TRANSFORMER_SAVES = 24.0
"""What a transformer block saves, in multiples of its input: three norms with input and output, queries, keys, values
and result of two attentions, and the feed-forward part, which is up to eight times as wide."""
GEGLU = 8.0
"""Of these, what lean saves compute again."""
MARGIN = 1.25
"""For what is not counted: workspaces of the libraries, adapters on more layers, gaps of the allocator."""


def block_activations(config: UNetConfig, width: int, height: int) -> list[BlockActivations]:
    """The residual and transformer blocks of a UNet in order."""
    blocks: list[BlockActivations] = []

    def add(level: int, entering: int, depth: int, transformers: bool) -> None:
        pixels = max(1, width >> level) * max(1, height >> level)
        channels = config.channels[level]
        numbers = channels * pixels
        saved = RESNET_SAVES * (entering * pixels + numbers)
        blocks.append(BlockActivations(entering * pixels, saved, saved))
        if transformers:
            lean = (TRANSFORMER_SAVES - GEGLU / 2) * numbers
            blocks.extend([BlockActivations(numbers, TRANSFORMER_SAVES * numbers, lean)] * depth)

    # The way down; the channels of the skips are taken up again on the way up.
    last = len(config.channels) - 1
    current = config.channels[0]
    skips = [current]
    for level, channels in enumerate(config.channels):
        for _ in range(config.layers):
            add(level, current, config.depths[level], True)
            current = channels
            skips.append(channels)
        if level < last:
            skips.append(channels)

    add(last, current, config.mid_depth, True)
    add(last, current, 0, False)

    for level in range(last, -1, -1):
        for _ in range(config.layers + 1):
            add(level, current + skips.pop(), config.depths[level], True)
            current = config.channels[level]
    return blocks

"""What autograd keeps of a UNet, block by block, in multiples of what enters a block.

The multiples are those of this UNet with LoRA on its attentions; a test compares them with what a real pass keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorasmith.families.network_shape import KeptBlock

if TYPE_CHECKING:
    from lorasmith.families.stable_diffusion.unet_config import UNetConfig

RESNET_KEEPS = 2.0
"""What a residual block keeps: this many times its input and its output, each before a norm and before SiLU."""
TRANSFORMER_KEEPS = 24.0
"""What a transformer block keeps, in multiples of its input: three norms with input and output, queries, keys, values
and result of two attentions, and the feed-forward part, which is up to eight times as wide."""
GEGLU = 8.0
"""Of these, what lean saves compute again."""
MARGIN = 1.25
"""For what is not counted: workspaces of the libraries, adapters on more layers, gaps of the allocator."""


def kept_blocks(config: UNetConfig, width: int, height: int) -> list[KeptBlock]:
    """The residual and transformer blocks of a UNet in order."""
    blocks: list[KeptBlock] = []

    def add(level: int, entering: int, depth: int, transformers: bool) -> None:
        pixels = max(1, width >> level) * max(1, height >> level)
        channels = config.channels[level]
        numbers = channels * pixels
        kept = RESNET_KEEPS * (entering * pixels + numbers)
        blocks.append(KeptBlock(entering * pixels, kept, kept))
        if transformers:
            lean = (TRANSFORMER_KEEPS - GEGLU / 2) * numbers
            blocks.extend([KeptBlock(numbers, TRANSFORMER_KEEPS * numbers, lean)] * depth)

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

"""How much memory a step needs at each memory level, from the shape of the network, before anything is loaded.

The activations that autograd keeps are counted block by block, in multiples of what enters a block. The multiples are
those of this UNet with LoRA on its attentions; a test compares them with what a real pass keeps. Adapters on more
layers keep more, so the estimate has a margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorasmith.core.free_memory import free_memory
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.unet_config import UNetConfig
from lorasmith.training.config import TrainConfig
from lorasmith.training.memory_levels import CHECKPOINTING, EIGHT_BIT, LAST_EXACT, LEVELS, STREAMED, use_level

RESNET_KEEPS = 2.0
"""What a residual block keeps: this many times its input and its output, each before a norm and before SiLU."""
TRANSFORMER_KEEPS = 24.0
"""What a transformer block keeps, in multiples of its input: three norms with input and output, queries, keys, values
and result of two attentions, and the feed-forward part, which is up to eight times as wide."""
GEGLU = 8.0
"""Of these, what lean saves compute again."""
TRAINED_BYTES = 16
"""Bytes for each trained weight: itself, its gradient, and two averages of AdamW, in float32."""
MARGIN = 1.25
"""For what is not counted: workspaces of the libraries, adapters on more layers, gaps of the allocator."""
FIXED = 300 * 2**20
"""What a device needs for itself: kernels and handles of libraries."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on the device during a step of training."""

    weights: int
    activations: int
    trained: int

    @property
    def total(self) -> int:
        return int((self.weights + self.activations) * MARGIN) + self.trained + FIXED


@dataclass(frozen=True)
class StepShape:
    """What decides how much a step needs, beside the network."""

    width: int
    height: int
    """Of the latents."""
    images: int
    """In one micro-batch."""
    item: int
    """Bytes of a number of the frozen network."""


def block_sizes(config: UNetConfig, width: int, height: int) -> list[tuple[str, int, int]]:
    """The residual and transformer blocks of a UNet in order: kind, and numbers that enter and leave it."""
    blocks: list[tuple[str, int, int]] = []

    def add(level: int, entering: int, depth: int, transformers: bool) -> None:
        pixels = max(1, width >> level) * max(1, height >> level)
        channels = config.channels[level]
        blocks.append(("resnet", entering * pixels, channels * pixels))
        if transformers:
            blocks.extend([("transformer", channels * pixels, channels * pixels)] * depth)

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


def activations(config: UNetConfig, shape: StepShape, level: int) -> int:
    """Bytes that autograd keeps for the backward pass of one micro-batch."""
    inside: list[float] = []
    inputs = 0
    for kind, entering, leaving in block_sizes(config, shape.width, shape.height):
        inputs += entering
        if kind == "resnet":
            inside.append(RESNET_KEEPS * (entering + leaving))
        else:
            inside.append((TRANSFORMER_KEEPS - (GEGLU / 2 if level >= 1 else 0)) * entering)
    # When blocks are computed again, only their inputs are kept, and the inside of one of them.
    numbers = inputs + max(inside) if level >= CHECKPOINTING else sum(inside)
    return int(numbers * shape.images * shape.item)


def need(config: UNetConfig, parameters: int, trained: int, shape: StepShape, level: int) -> MemoryNeed:
    """What a step needs at a memory level. `parameters`: of the frozen network; `trained`: weights that are trained."""
    weights = parameters * (1 if level >= EIGHT_BIT else shape.item)
    if level >= STREAMED:
        # Two blocks at a time are on the device, of which the largest has about a fortieth of all weights.
        weights //= 10
    return MemoryNeed(weights, activations(config, shape, level), trained * TRAINED_BYTES)


def apply_memory_level(config: TrainConfig, family: Family, dataset: Dataset, progress: Progress) -> int:
    """Let the family need as little memory as the config says; returns the level. Adapters are not attached yet."""
    level = choose_level(config, family, dataset)
    # what the config does not ask for by itself is said
    if config.memory == "auto" and level > least_level(config):
        progress.say(f"memory level {level}, so that steps fit: {LEVELS[level].name}, {LEVELS[level].cost}")
    use_level(family, level)
    return level


def choose_level(config: TrainConfig, family: Family, dataset: Dataset) -> int:
    """The memory level of the config; with `auto`, the lowest exact one that fits into what is free, or else the
    highest exact one. The network is loaded, so only what comes in addition must fit."""
    least = least_level(config)
    if config.memory != "auto":
        return least
    unet_config = getattr(family.denoiser, "config", None)
    if not isinstance(unet_config, UNetConfig):
        return least

    shape = largest_shape(dataset, torch.empty(0, dtype=family.dtype).itemsize)
    free = free_memory(family.device)
    for level in range(least, LAST_EXACT):
        if int(activations(unet_config, shape, level) * MARGIN) <= free:
            return level
    return last_level(family.device, least)


def least_level(config: TrainConfig) -> int:
    """The level that the config asks for; with `auto`, the lowest that it allows."""
    requested = 0 if config.memory == "auto" else int(config.memory)
    return max(requested, CHECKPOINTING if config.gradient_checkpointing else 0)


def last_level(device: torch.device, least: int) -> int:
    """The highest level that `auto` takes. On a CPU the host is the device, and streaming would gain nothing."""
    return LAST_EXACT if device.type == "cuda" else max(least, CHECKPOINTING)


def largest_shape(dataset: Dataset, item: int) -> StepShape:
    """The shape of the step that needs the most: the largest product of bucket and batch."""
    plans = dataset.epoch(0)
    plan = max(plans, key=lambda plan: plan.bucket[0] * plan.bucket[1] * len(plan.views))
    width, height = plan.bucket
    return StepShape(width // 8, height // 8, len(plan.views), item)

"""How much memory a step needs at each memory level, from the shape of the network, before anything is loaded.

The activations that autograd saves are counted block by block; each family says what a block saves (`NetworkShape`).
Adapters on more layers than the attentions save more, so the estimate has a margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorasmith.core.free_memory import free_memory
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.families.base import Family
from lorasmith.families.network_shape import NetworkShape
from lorasmith.training.config import TrainConfig
from lorasmith.training.memory_levels import CHECKPOINTING, EIGHT_BIT, LAST_EXACT, LEAN, LEVELS, STREAMED, use_level

TRAINED_BYTES = 16
"""Bytes for each trained weight: itself, its gradient, and two averages of AdamW, in float32."""
FIXED = 300 * 2**20
"""What a device needs for itself: kernels and handles of libraries."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on the device during a step of training."""

    weights: int
    activations: int
    trained: int
    margin: float

    @property
    def total(self) -> int:
        return int((self.weights + self.activations) * self.margin) + self.trained + FIXED


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


def activations(network: NetworkShape, shape: StepShape, level: int) -> int:
    """Bytes that autograd saves for the backward pass of one micro-batch."""
    blocks = network.block_activations(shape.width, shape.height)
    saved = [block.lean if level >= LEAN else block.all for block in blocks]
    # When blocks are computed again, only their inputs are saved, and all of one of them.
    numbers = sum(block.inputs for block in blocks) + max(saved) if level >= CHECKPOINTING else sum(saved)
    return int(numbers * shape.images * shape.item)


def need(network: NetworkShape, parameters: int, trained: int, shape: StepShape, level: int) -> MemoryNeed:
    """What a step needs at a memory level. `parameters`: of the frozen network; `trained`: weights that are trained."""
    weights = parameters * (1 if level >= EIGHT_BIT else shape.item)
    if level >= STREAMED:
        # Two blocks at a time are on the device, of which the largest has about a fortieth of all weights.
        weights //= 10
    return MemoryNeed(weights, activations(network, shape, level), trained * TRAINED_BYTES, network.margin)


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
    least = max(least_level(config), STREAMED if family.is_streamed else 0)
    if config.memory != "auto":
        return least
    network = family.network_shape
    if network is None:
        return least

    shape = largest_shape(dataset, torch.empty(0, dtype=family.dtype).itemsize)
    free = free_memory(family.device)
    for level in range(least, LAST_EXACT):
        if int(activations(network, shape, level) * network.margin) <= free:
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

"""Ranks, alphas and learning rates by block of the UNet, as networks.lora numbers the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.core.errors import Problem

CURVES: dict[str, Callable[[float], float]] = {
    "sine": lambda x: math.sin(math.pi * x / 2),
    "cosine": lambda x: math.sin(math.pi * (1 - x) / 2),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}
"""Presets of learning rate weights over the blocks of a section, which are spread over x from 0 to 1."""
RATE_WEIGHTS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
"""Arguments with the learning rate weights of the three sections."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a family's UNet, as networks.lora numbers them."""

    patterns: dict[int, tuple[str, ...]]
    """Number of a block to patterns of its layers; numbers without trained layers are absent."""
    count: int
    """How many numbers a list such as block_dims has."""
    section_sizes: tuple[int, int, int]
    """How many blocks go down, are in the middle, and go up, in the lists of learning rate weights."""
    first: int
    """The number of the first block that has a learning rate weight."""


def sd_blocks() -> Blocks:
    """SD 1.x and 2.x: 1 to 12 go down, 12 is also the middle, 13 to 24 go up; 0 has no layers."""
    # A level has two blocks on the way down and three on the way up; the highest index of `down_blocks`, and the lowest
    # of `up_blocks`, have no attention.
    patterns: dict[int, tuple[str, ...]] = {12: ("unet.mid_block.*",)}
    for level in range(4):
        for index in range(3):
            patterns[13 + 3 * level + index] = block_layers(f"unet.up_blocks.{level}", index, attention=level > 0)
            if index < 2:
                down = block_layers(f"unet.down_blocks.{level}", index, attention=level < 3)
                patterns[1 + 3 * level + index] = down
        if level < 3:
            # An upsampler belongs to the last block of its level; a downsampler has its own number.
            patterns[15 + 3 * level] += (f"unet.up_blocks.{level}.upsamplers.*",)
            patterns[3 + 3 * level] = (f"unet.down_blocks.{level}.downsamplers.*",)
    return Blocks(patterns, count=25, section_sizes=(12, 1, 12), first=0)


def sdxl_blocks() -> Blocks:
    """SDXL: 1 to 9 go down, 10 to 12 are the middle, 13 to 21 go up; 0, 1 and 22 have no trained layers."""
    patterns: dict[int, tuple[str, ...]] = {
        10: ("unet.mid_block.resnets.0.*",),
        11: ("unet.mid_block.attentions.*",),
        12: ("unet.mid_block.resnets.1.*",),
    }
    # Unlike in SD 1.x, the first level has no attention, and the middle has a number for each of its parts.
    for level in range(3):
        for index in range(3):
            patterns[13 + 3 * level + index] = block_layers(f"unet.up_blocks.{level}", index, attention=level < 2)
            if index < 2:
                down = block_layers(f"unet.down_blocks.{level}", index, attention=level > 0)
                patterns[2 + 3 * level + index] = down
        if level < 2:
            patterns[15 + 3 * level] += (f"unet.up_blocks.{level}.upsamplers.*",)
            patterns[4 + 3 * level] = (f"unet.down_blocks.{level}.downsamplers.*",)
    return Blocks(patterns, count=23, section_sizes=(9, 3, 9), first=1)


def block_layers(block: str, index: int, attention: bool) -> tuple[str, ...]:
    """Patterns of a residual block and of the attention that follows it."""
    residual = f"{block}.resnets.{index}.*"
    return (residual, f"{block}.attentions.{index}.*") if attention else (residual,)


def convert_block_arguments(
    arguments: KeyValueArguments, blocks: Blocks, rank: int, alpha: float, residual: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rules for `adapter.overrides`, and patterns for `adapter.layers` that exclude layers.

    `rank`, `alpha`: of blocks without their own; `residual`: whether residual blocks are trained.
    """
    ranks = take_numbers(arguments, "block_dims", blocks.count)
    alphas = take_numbers(arguments, "block_alphas", blocks.count)
    conv_ranks = take_numbers(arguments, "conv_block_dims", blocks.count)
    conv_alphas = take_numbers(arguments, "conv_block_alphas", blocks.count)
    rate_weights = take_rate_weights(arguments, blocks)
    rules: list[dict[str, Any]] = []
    excluded: list[str] = []
    for number, patterns in sorted(blocks.patterns.items()):
        if not residual:
            patterns = without_residual(patterns)

        # As in the original, a block with a weight of 0 gets no LoRA at all.
        rate_weight = rate_weights.get(number, 1.0)
        if rate_weight == 0:
            excluded += [f"!{pattern}" for pattern in patterns]
            continue

        size = block_size(ranks, alphas, number, rank, alpha)
        conv_size = block_size(conv_ranks, conv_alphas, number, rank, alpha)
        for pattern in patterns:
            # The first rule that matches a layer counts, so convolutions come before the rest of their block.
            if residual and conv_size:
                for convolutions in convolution_patterns(pattern):
                    rules.append({"layers": convolutions, **conv_size, "lr": rate_weight})
            if size or rate_weight != 1:
                rules.append({"layers": pattern, **size, "lr": rate_weight})
    return rules, excluded


def without_residual(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns that include layers of attention."""
    return tuple(pattern for pattern in patterns if "attentions" in pattern or "mid_block" in pattern)


def convolution_patterns(pattern: str) -> list[str]:
    """Patterns of the 3x3 convolutions among a block's layers."""
    if "attentions" in pattern:
        return []
    prefix = pattern.removesuffix("*")
    if "samplers" in pattern:
        return [f"{prefix}*.conv"]
    if prefix.endswith("mid_block."):
        return [f"{prefix}*conv[12]"]
    return [f"{prefix}conv[12]"]


def block_size(
    ranks: list[float] | None, alphas: list[float] | None, number: int, default_rank: int, default_alpha: float
) -> dict[str, Any]:
    """`rank` and `alpha` of a block, or an empty table if neither list is given. An alpha of 0 means the rank."""
    if ranks is None and alphas is None:
        return {}
    rank = int(ranks[number]) if ranks else default_rank
    alpha = alphas[number] if alphas else default_alpha
    return {"rank": rank, "alpha": alpha or rank}


def take_numbers(arguments: KeyValueArguments, key: str, count: int) -> list[float] | None:
    """A list of one number for each block, separated by commas; None if it is absent or wrong."""
    text = arguments.take_text(key)
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        allowed = f"{count} numbers separated by commas"
        arguments.problems.append(Problem(f"network_args.{key}", f'found "{text}"', allowed))
        return None
    return numbers


def take_rate_weights(arguments: KeyValueArguments, blocks: Blocks) -> dict[int, float]:
    """Number of a block to the factor of its learning rate; factors up to the threshold become 0."""
    threshold = arguments.take_float("block_lr_zero_threshold", 0.0)
    # One of the three arguments is enough: the sections without one keep their learning rate.
    sections = [
        take_section_weights(arguments, key, size) for key, size in zip(RATE_WEIGHTS, blocks.section_sizes, strict=True)
    ]
    if all(weights is None for weights in sections):
        return {}
    factors: dict[int, float] = {}
    number = blocks.first
    for weights, size in zip(sections, blocks.section_sizes, strict=True):
        for weight in weights or [1.0] * size:
            factors[number] = weight if weight > threshold else 0.0
            number += 1
    return factors


def take_section_weights(arguments: KeyValueArguments, key: str, size: int) -> list[float] | None:
    """One weight for each of the `size` blocks of a section; None if the argument is absent or wrong.

    The text is a list separated by commas, in which an empty item means 0 and missing items mean 1, or the name of a
    curve with an offset, such as `sine+0.5`.
    """
    text = arguments.take_text(key)
    if not text:
        return None
    curve_name, _, offset = text.partition("+")
    curve = CURVES.get(curve_name.strip())
    try:
        if curve is not None:
            base = float(offset or 0)
            return [curve(i / max(1, size - 1)) + base for i in range(size)]
        weights = [float(part) if part.strip() else 0.0 for part in text.split(",")]
    except ValueError:
        allowed = f"{size} numbers separated by commas, or one of {', '.join(CURVES)}"
        arguments.problems.append(Problem(f"network_args.{key}", f'found "{text}"', allowed))
        return None
    missing = [1.0] * size
    return (weights + missing)[:size]

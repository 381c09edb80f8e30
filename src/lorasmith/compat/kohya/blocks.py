"""Ranks, alphas and learning rates by block of the UNet, as networks.lora numbers them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lorasmith.compat.kohya.arguments import Arguments
from lorasmith.core.errors import Problem

CURVES = {
    "sine": lambda x: math.sin(math.pi * x / 2),
    "cosine": lambda x: math.sin(math.pi * (1 - x) / 2),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}
"""Presets of learning rates, over x from 0 to 1."""
LISTS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
RATES = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")


@dataclass(frozen=True)
class Blocks:
    """How blocks of a family are counted: patterns of layers for each number, and sizes of the three parts."""

    patterns: dict[int, tuple[str, ...]]
    count: int
    sizes: tuple[int, int, int]
    first: int
    """The number of the first block that has a learning rate weight."""


def sd_blocks() -> Blocks:
    """SD 1.x and 2.x: 0 is no block, 1 to 12 go down, 12 is the middle too, 13 to 24 go up."""
    patterns: dict[int, tuple[str, ...]] = {12: ("unet.mid_block.*",)}
    for i in range(4):
        for j in range(3):
            patterns[13 + 3 * i + j] = pair(f"unet.up_blocks.{i}", j, attention=i > 0)
            if j < 2:
                patterns[1 + 3 * i + j] = pair(f"unet.down_blocks.{i}", j, attention=i < 3)
        if i < 3:
            patterns[15 + 3 * i] += (f"unet.up_blocks.{i}.upsamplers.*",)
            patterns[3 + 3 * i] = (f"unet.down_blocks.{i}.downsamplers.*",)
    return Blocks(patterns, 25, (12, 1, 12), 0)


def sdxl_blocks() -> Blocks:
    """SDXL: 1 to 9 go down, 10 to 12 are the middle, 13 to 21 go up; 0, 1 and 22 hold nothing that is trained."""
    middle = "unet.mid_block"
    patterns: dict[int, tuple[str, ...]] = {11: (f"{middle}.attentions.*",)}
    patterns |= {10: (f"{middle}.resnets.0.*",), 12: (f"{middle}.resnets.1.*",)}
    for i in range(3):
        for j in range(3):
            patterns[13 + 3 * i + j] = pair(f"unet.up_blocks.{i}", j, attention=i < 2)
            if j < 2:
                patterns[2 + 3 * i + j] = pair(f"unet.down_blocks.{i}", j, attention=i > 0)
        if i < 2:
            patterns[15 + 3 * i] += (f"unet.up_blocks.{i}.upsamplers.*",)
            patterns[4 + 3 * i] = (f"unet.down_blocks.{i}.downsamplers.*",)
    return Blocks(patterns, 23, (9, 3, 9), 1)


def pair(block: str, number: int, attention: bool) -> tuple[str, ...]:
    """A residual block and the attention behind it."""
    found = (f"{block}.resnets.{number}.*",)
    return (*found, f"{block}.attentions.{number}.*") if attention else found


def block_rules(
    arguments: Arguments, blocks: Blocks, size: tuple[int, float], spatial: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rules for `adapter.overrides` and patterns that take layers out, of all block arguments.

    `size`: rank and alpha of all blocks that have none; `spatial`: whether residual blocks are trained.
    """
    lists = {name: numbers(arguments, name, blocks.count) for name in LISTS}
    rates = rates_of(arguments, blocks)
    rules: list[dict[str, Any]] = []
    out: list[str] = []
    for number, patterns in sorted(blocks.patterns.items()):
        rate = rates.get(number, 1.0)
        patterns = tuple(p for p in patterns if spatial or "attentions" in p or "mid_block" in p)
        if rate == 0:
            out += [f"!{pattern}" for pattern in patterns]
            continue
        own = chosen(lists["block_dims"], lists["block_alphas"], number, *size)
        convolutions = chosen(lists["conv_block_dims"], lists["conv_block_alphas"], number, *size)
        for pattern in patterns:
            for end in spatial_ends(pattern) if spatial and convolutions else ():
                rules.append({"layers": end, **convolutions, "lr": rate})
            if own or rate != 1:
                rules.append({"layers": pattern, **own, "lr": rate})
    return rules, out


def spatial_ends(pattern: str) -> tuple[str, ...]:
    """Patterns of the 3x3 convolutions among a block's layers."""
    if "attentions" in pattern:
        return ()
    start = pattern.removesuffix("*")
    if "samplers" in pattern:
        return (f"{start}*.conv",)
    return (f"{start}*conv[12]",) if start.endswith("mid_block.") else (f"{start}conv[12]",)


def chosen(
    ranks: list[float] | None, alphas: list[float] | None, number: int, rank: int, alpha: float
) -> dict[str, Any]:
    """Rank and alpha of a block, or nothing if none are given."""
    if ranks is None and alphas is None:
        return {}
    own = int(ranks[number]) if ranks else rank
    scale = alphas[number] if alphas else alpha
    return {"rank": own, "alpha": scale or own}


def numbers(arguments: Arguments, name: str, count: int) -> list[float] | None:
    """A comma list, one number a block."""
    text = arguments.text(name)
    if not text:
        return None
    try:
        found = [float(part) for part in text.split(",")]
        if len(found) != count:
            raise ValueError
    except ValueError:
        problem = Problem(f"network_args.{name}", f'found "{text}"', f"{count} numbers with commas between them")
        arguments.problems.append(problem)
        return None
    return found


def rates_of(arguments: Arguments, blocks: Blocks) -> dict[int, float]:
    """Block number to the factor of its learning rate; 0 up to the threshold."""
    threshold = arguments.float("block_lr_zero_threshold", 0.0)
    found: dict[int, float] = {}
    start = blocks.first
    given = [weights_of(arguments, name, size) for name, size in zip(RATES, blocks.sizes, strict=True)]
    if any(weights is not None for weights in given):
        for weights, size in zip(given, blocks.sizes, strict=True):
            for i, weight in enumerate(weights or [1.0] * size):
                found[start + i] = weight if weight > threshold else 0.0
            start += size
    return found


def weights_of(arguments: Arguments, name: str, size: int) -> list[float] | None:
    """A comma list, padded with 1 and cut to `size`, an empty item meaning 0; or a curve by name: `sine+0.5`."""
    text = arguments.text(name)
    if not text:
        return None
    word, _, base = text.partition("+")
    try:
        if word.strip() in CURVES:
            return [CURVES[word.strip()](i / max(1, size - 1)) + float(base or 0) for i in range(size)]
        weights = [float(part) if part.strip() else 0.0 for part in text.split(",")]
    except ValueError:
        allowed = f"{size} numbers with commas between them, or one of {', '.join(CURVES)}"
        arguments.problems.append(Problem(f"network_args.{name}", f'found "{text}"', allowed))
        return None
    return (weights + [1.0] * size)[:size]

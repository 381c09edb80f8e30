"""How much memory the sums of a fusion take, and in how many passes its layers are fused so that they fit.

A fusion keeps the Gram matrix of each layer's inputs, whose size is the square of the layer's input width: 940 MB for a
layer of Flux that takes 15,360 numbers. Layers that do not fit together are fused in several passes, each of which
draws all pictures again and gives what one pass would give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.free_memory import free_memory

FLOAT, DOUBLE = 4, 8
GIB = 2**30
ROOM = 0.75
"""The share of the free memory that sums may take; the rest is for the pictures that are drawn meanwhile."""
CPU = torch.device("cpu")

Widths = Mapping[str, int]
"""By layer, the length of its input vectors; for a convolution it includes the kernel window."""


@dataclass(frozen=True)
class SumsNeed:
    """Bytes of the sums of some layers that are fused in one pass."""

    device: int
    """Where the model runs, while the inputs of one concept are collected."""
    host: int
    """The sums over all concepts, and the solution of one layer."""

    @classmethod
    def of(cls, widths: Sequence[int]) -> SumsNeed:
        squares = [width**2 for width in widths]
        # the matrix in float64, and its factors
        solution = 2 * DOUBLE * max(squares, default=0)
        return cls(FLOAT * sum(squares), FLOAT * sum(squares) + solution)

    @property
    def together(self) -> int:
        """Where the model runs in the host's memory. A solution begins when the sums of the concept are freed."""
        return max(2 * self.device, self.host)


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that are free for sums."""

    device: int
    host: int
    shared: bool
    """Whether the device is the host."""

    @classmethod
    def on(cls, device: torch.device, taken: int = 0) -> FreeMemory:
        """What is free now for sums of a model on `device`. `taken`: bytes there that something else will take."""
        is_host = device.type == "cpu"
        free = int(ROOM * max(0, free_memory(device) - taken))
        return cls(free, free if is_host else int(ROOM * free_memory(CPU)), is_host)

    def holds(self, need: SumsNeed) -> bool:
        if self.shared:
            return need.together <= self.host
        return need.device <= self.device and need.host <= self.host


@dataclass(frozen=True)
class FusionPlan:
    """What the sums of a fusion take, and how they are made to fit. Of the layers of the network, at most: keys and
    values of Stable Diffusion are fused by themselves."""

    layers: int
    base: int
    """Bytes of the network's weights."""
    need: int
    """Bytes of the sums of all layers together."""
    free: int
    """Bytes that are free for sums, once the base is loaded."""
    passes: int
    widest: tuple[tuple[str, int], ...]
    """Groups of layers with equal names but for numbers, and the bytes of their sums, largest first."""

    def lines(self) -> list[str]:
        """The plan in words."""
        lines = [
            f"sums:    {gib(self.need)} for {self.layers} layers, beside {gib(self.base)} of the base; "
            f"{gib(self.free)} are free for them"
        ]
        if self.passes > 1:
            lines.append(
                f"passes:  {self.passes}, because the sums do not fit at once. Each pass draws all pictures again; "
                "more free memory, or LoRAs of fewer or narrower layers, need fewer"
            )
            groups = ", ".join(f"{gib(size)} for {name}" for name, size in self.widest[:3])
            lines.append(f"most of: {groups}")
        return lines


def plan_passes(layers: Sequence[str], widths: Widths, free: FreeMemory) -> list[list[str]]:
    """The layers in as few groups as fit into what is free, each spread over the depth of the model. Raises
    LorasmithError if the sums of a single layer do not fit."""
    if not layers:
        return []
    widest = max(layers, key=lambda name: widths[name])
    alone = SumsNeed.of([widths[widest]])
    if not free.holds(alone):
        need = alone.together if free.shared else max(alone.device, alone.host)
        raise LorasmithError(
            f"fusing needs {gib(need)} for the inputs of the layer {widest} ({widths[widest]} numbers wide) alone, "
            f"and {gib(min(free.device, free.host))} are free for them beside the base.\n"
            "  Free memory, use a machine with more, or train the LoRAs without this layer (`adapter.layers` = "
            f'["...", "!{pattern_of(widest)}"]). `lorasmith combine` adds LoRAs up and needs none of this'
        )
    count = 1
    while True:
        groups = [list(layers[first::count]) for first in range(count)]
        if all(free.holds(SumsNeed.of([widths[name] for name in group])) for group in groups):
            return groups
        count += 1


def make_plan(widths: Widths, base: int, device: torch.device) -> FusionPlan:
    """The plan for layers of these widths, before the base, whose network takes `base` bytes, is loaded. Raises
    LorasmithError if the sums of a single layer will not fit."""
    free = FreeMemory.on(device, taken=base)
    layers = list(widths)
    need = SumsNeed.of(list(widths.values()))
    sizes: dict[str, int] = {}
    for name, width in widths.items():
        pattern = pattern_of(name)
        sizes[pattern] = sizes.get(pattern, 0) + FLOAT * width**2
    return FusionPlan(
        layers=len(layers),
        base=base,
        need=need.together if free.shared else max(need.device, need.host),
        free=min(free.device, free.host),
        passes=len(plan_passes(layers, widths, free)),
        widest=tuple(sorted(sizes.items(), key=lambda item: -item[1])),
    )


def pattern_of(layer: str) -> str:
    """The pattern of the layers of all blocks that are like this one."""
    return re.sub(r"\.\d+\.", ".*.", layer, count=1)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"

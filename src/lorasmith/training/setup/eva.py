"""Data-driven start of LoRA: `down` reads what the layers really see (EVA, arXiv 2410.07170).

Before the first step the base runs on the first micro-batches; for each layer the leading right singular vectors of
its inputs become the rows of `down`. `up` is zero, so nothing changes at the start. The decomposition is streamed: a
layer keeps a sketch of a few directions and their sizes, to which each micro-batch is added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.core.errors import LorasmithError
from lorasmith.training.step.loop import micro_batches, remaining_steps

if TYPE_CHECKING:
    from lorasmith.training.run import Run

BATCHES = 8
"""Micro-batches that are looked at."""
ROWS = 512
"""Inputs of a layer that are taken from each, evenly spaced."""


class Sketch:
    """The leading directions of inputs: (kept, n) rows, each a direction times its singular value."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.rows: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Inputs (count, n)."""
        step = max(1, len(inputs) // ROWS)
        taken = inputs[::step][:ROWS].float()
        stacked = taken if self.rows is None else torch.cat([self.rows, taken])
        _, sizes, directions = torch.linalg.svd(stacked, full_matrices=False)
        self.rows = (sizes[:, None] * directions)[: self.kept]

    def directions(self, rank: int) -> Tensor:
        """The first `rank` directions, orthonormal rows (rank, n); at right angles to all, where inputs have fewer."""
        assert self.rows is not None
        q, r = torch.linalg.qr(self.rows[:rank].T)
        signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
        return (q * signs).T


def inputs_of(spec: LayerSpec, x: Tensor) -> Tensor:
    """What a layer multiplies its weight with, (count, n): tokens, or unfolded patches of a convolution."""
    if spec.kind != "conv":
        return x.flatten(0, -2)
    patches = F.unfold(x.float(), spec.shape[2:], dilation=spec.dilation, padding=spec.padding, stride=spec.stride)
    return patches.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def prime(run: Run) -> None:
    """Give every LoRA its start. Draws nothing, so a run that asks for it is as repeatable as any.

    Raises LorasmithError if a layer was not used, or the data are too few for the rank.
    """
    if getattr(run.config.adapter, "init", "") != "eva":
        return
    adapters: dict[str, Any] = {n: a for n, a in run.adapters.adapters.items() if a.layer.kind != "norm"}
    sketches = {name: Sketch(2 * len(factor_of(a))) for name, a in adapters.items()}
    handles = []
    for name, adapter in adapters.items():
        layer = run.adapters.module_of(name)
        handles.append(layer.register_forward_pre_hook(_watching(sketches[name], adapter.layer)))
    run.progress.say("looking at what the layers see (init eva)")
    try:
        first = itertools.islice(remaining_steps(run), min(BATCHES, run.length.steps_per_epoch))
        for number, (_, plans) in enumerate(first):
            for batch, rng in micro_batches(run, plans, number):
                run.config.objective(run.family, batch, rng)
    finally:
        for handle in handles:
            handle.remove()
    for name, adapter in adapters.items():
        if sketches[name].rows is None:
            raise LorasmithError(f'adapter.init: "eva" saw no input of {name}; take it out of adapter.layers')
        down = factor_of(adapter)
        found = sketches[name].directions(len(down))
        if found.shape != down.flatten(1).shape:
            what = f"{len(found)} directions at {name}, fewer than rank {len(down)}"
            raise LorasmithError(f'adapter.init: "eva" found {what}; lower the rank')
        down.copy_(found.reshape(down.shape))
    if run.ema is not None:
        run.ema.average = [w.detach().clone() for w in run.ema.weights]


def factor_of(adapter: Any) -> Tensor:
    """`down` of a LoRA, or of the one inside a DoRA."""
    return getattr(adapter, "inner", adapter).down


def _watching(sketch: Sketch, spec: LayerSpec) -> Callable[[Any, tuple[Tensor, ...]], None]:
    def watch(module: Any, arguments: tuple[Tensor, ...]) -> None:
        sketch.add(inputs_of(spec, arguments[0]))

    return watch

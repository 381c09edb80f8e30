"""Initialisation of LoRA from the data: `down` starts as what the layers see (EVA, arXiv 2410.07170).

Before the first step the base runs on the first micro-batches. For each layer the leading right singular vectors of its
inputs become the rows of `down`. `up` is zero, so the model is unchanged at the start. The decomposition is streamed: a
sketch of each layer holds a few directions and their singular values, and each micro-batch is merged into it.
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
from lorasmith.core.rng import restored_global_generators
from lorasmith.training.step.batches import micro_batches, rank_share
from lorasmith.training.step.loop import remaining_steps

if TYPE_CHECKING:
    from lorasmith.training.run import Run

MAX_STEPS = 8
"""The inputs of this many steps are used, or of an epoch if that is shorter."""
MAX_ROWS = 512
"""Inputs of a layer that are used of each micro-batch, evenly spaced."""


class Sketch:
    """The leading directions of inputs: at most (size, n) rows, each a unit direction times its singular value."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Merge inputs (count, n) into the sketch."""
        stride = max(1, len(inputs) // MAX_ROWS)
        rows = inputs[::stride][:MAX_ROWS].float()
        if self.rows is not None:
            rows = torch.cat([self.rows, rows])
        _, singular_values, directions = torch.linalg.svd(rows, full_matrices=False)
        self.rows = (singular_values[:, None] * directions)[: self.size]

    def directions(self, rank: int) -> Tensor:
        """The first `rank` directions as orthonormal rows (rank, n); fewer rows if the inputs had fewer directions.

        Directions that no input had are orthogonal to all others.
        """
        assert self.rows is not None
        q, r = torch.linalg.qr(self.rows[:rank].T)
        # QR may flip signs; the factor puts them back, so that the result follows from the inputs alone.
        signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
        return (q * signs).T


@torch.no_grad()
def initialise_with_eva(run: Run) -> None:
    """Initialise `down` of every LoRA. Follows from the seed and the data, so runs stay repeatable.

    Raises LorasmithError if a layer was not used, or the data have fewer directions than a layer's rank.
    """
    adapters: dict[str, Any] = {n: a for n, a in run.adapters.adapters.items() if a.layer.kind != "norm"}
    run.progress.say("reading the inputs of the layers (init eva)")
    sketches = sketch_inputs(run, adapters)

    for name, adapter in adapters.items():
        if sketches[name].rows is None:
            raise LorasmithError(f'adapter.init: "eva" saw no input of {name}; take it out of adapter.layers')
        down = down_factor(adapter)
        directions = sketches[name].directions(len(down))
        if directions.shape != down.flatten(1).shape:
            what = f"{len(directions)} directions at {name}, fewer than rank {len(down)}"
            raise LorasmithError(f'adapter.init: "eva" found {what}; lower the rank')
        down.copy_(directions.reshape(down.shape))

    # The average was copied from the weights before they were initialised here.
    if run.ema is not None:
        run.ema.average = [w.detach().clone() for w in run.ema.weights]


def sketch_inputs(run: Run, adapters: dict[str, Any]) -> dict[str, Sketch]:
    """Run the model on the first micro-batches and sketch the inputs of each layer with an adapter."""
    # Twice the rank, so that directions that become important later are not dropped early.
    sketches = {name: Sketch(2 * len(down_factor(adapter))) for name, adapter in adapters.items()}
    handles = []
    for name, adapter in adapters.items():
        layer = run.adapters.module_of(name)
        handles.append(layer.register_forward_pre_hook(add_inputs_to(sketches[name], adapter.layer)))

    try:
        steps = itertools.islice(remaining_steps(run), min(MAX_STEPS, run.length.steps_per_epoch))
        with restored_global_generators(run.device):
            for number, (_, plans) in enumerate(steps):
                # Every rank runs on the whole batches, so all ranks find the same directions.
                for batch, rng in micro_batches(run, rank_share(plans), number):
                    run.objective(run.family, batch, rng)
    finally:
        for handle in handles:
            handle.remove()
    return sketches


def add_inputs_to(sketch: Sketch, spec: LayerSpec) -> Callable[[Any, tuple[Tensor, ...]], None]:
    """A forward hook that adds a layer's inputs to a sketch."""

    def hook(module: Any, arguments: tuple[Tensor, ...]) -> None:
        sketch.add(weight_inputs(spec, arguments[0]))

    return hook


def weight_inputs(spec: LayerSpec, x: Tensor) -> Tensor:
    """What a layer multiplies its weight with, (count, n): tokens, or the unfolded patches of a convolution."""
    if spec.kind != "conv":
        return x.flatten(0, -2)
    patches = F.unfold(x.float(), spec.shape[2:], dilation=spec.dilation, padding=spec.padding, stride=spec.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def down_factor(adapter: Any) -> Tensor:
    """`down` of a LoRA, or of the LoRA inside a DoRA."""
    return getattr(adapter, "inner", adapter).down

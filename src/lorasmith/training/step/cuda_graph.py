"""Whole steps as CUDA graphs: one launch in place of thousands.

At small batches a GPU waits for the CPU to launch kernels. `Graphs` captures the whole descent (draws, forward,
backward, clipping, optimizer) once per shape of batch and replays it. A step is captured the second time that its shape
comes: the first time it runs as usual, which also is the warm-up that capturing needs; so capturing moves no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.data.dataset import Batch
from lorasmith.training.step.metrics import StepOutcome

if TYPE_CHECKING:
    from lorasmith.training.run import Run

T = TypeVar("T")
Body = Callable[[Batch, StepRng], StepOutcome]


@dataclass
class Captured:
    """One graph with the places that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    rng: StepRng
    outcome: StepOutcome


class CudaGraphs:
    """The graphs of a run, by the shapes of the batch. All share one memory pool: they never run at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen: dict[tuple[Any, ...], Captured | None] = {}
        self.pool: Any = None
        self.refused = False

    def close(self) -> None:
        """Free the graphs. Where they hold NCCL's sums, the ranks cannot part before."""
        self.seen.clear()
        self.pool = None

    def __call__(self, batch: Batch, rng: StepRng, body: Body) -> StepOutcome:
        """Run `body` on `batch` with the draws of `rng`: as it is, captured, or replayed."""
        key = shapes_of(batch)
        if self.refused or key not in self.seen:
            self.seen[key] = None
            return body(batch, rng)
        held = self.seen[key]
        if held is None:
            try:
                held = self.seen[key] = self.capture(batch, rng, body)
            except RuntimeError as error:  # an operation of this run waits for the device
                self.refused = True
                reason = str(error).splitlines()[0]
                self.run.progress.say(f"steps cannot be CUDA graphs here and run one kernel at a time ({reason})")
                return body(batch, rng)
        else:
            copy_into(held.batch, batch)
            held.rng.refill(rng.step, rng.samples)
        held.graph.replay()
        outcome = held.outcome
        kept = {name: value.clone() for name, value in outcome.parts.items()}
        return StepOutcome(
            outcome.loss.clone(), outcome.grad_norm.clone(), outcome.finite.clone(), tuple(batch.names), kept
        )

    def capture(self, batch: Batch, rng: StepRng, body: Body) -> Captured:
        """Record `body`; nothing is computed yet. Draws are made first, so that the graph finds them in place."""
        batch = owned(batch)
        self.record_draws(rng, batch)
        graph = torch.cuda.CUDAGraph()
        self.run.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        # NCCL's own thread may ask for its events meanwhile, which would spoil a capture that watches all threads
        mode = "global" if self.run.ranks.count == 1 else "thread_local"
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=mode):
            outcome = body(batch, rng)
        self.pool = graph.pool()
        return Captured(graph, batch, rng, outcome)

    def record_draws(self, rng: StepRng, batch: Batch) -> None:
        """Let the objective ask once for what it draws, so that all of it has its place before capturing."""
        rng.freeze()
        with torch.no_grad():
            self.run.config.objective(self.run.family, batch, rng)


def shapes_of(value: Any) -> tuple[Any, ...]:
    """A key that tells batches apart that need another graph: which tensors there are, and their shapes."""
    return tuple((f.name, _shape(getattr(value, f.name))) for f in fields(value))


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if is_dataclass(value):
        return shapes_of(value)
    return None


def copy_into(held: Any, fresh: Any) -> None:
    """Write the tensors of `fresh` into those of `held`, a record of the same shapes."""
    for field in fields(held):
        place, value = getattr(held, field.name), getattr(fresh, field.name)
        if isinstance(place, Tensor):
            place.copy_(value, non_blocking=True)
        elif is_dataclass(place):
            copy_into(place, value)


def owned(batch: Batch) -> Batch:
    """A copy whose tensors nobody else writes to: resident caches must not be overwritten by `copy_into`."""
    return replace(batch, **{f.name: _clone(getattr(batch, f.name)) for f in fields(batch)})


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _clone(getattr(value, f.name)) for f in fields(value)})
    return value

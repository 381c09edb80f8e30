"""Whole steps as CUDA graphs: one launch in place of thousands.

With small batches a GPU waits for the CPU to launch kernels. `CudaGraphs` captures a whole step (draws, forward,
backward, clipping, optimizer) once for each shape of batch, and replays it. A shape is captured when it comes the
second time: the first time its step runs as usual, which is also the warm-up that capturing needs. Capturing itself
computes nothing, so it changes no weight.

Of several ranks, all capture a step or none does, as NCCL asks for its sums. What decides it is therefore the same on
all of them: the buckets and sizes of all batches of the step. The sizes also decide by how many samples of the whole
step a loss is divided, which the graph holds as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lorasmith.core.devices import free_unused
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.rng import StepRng
from lorasmith.data.dataset import Batch, BatchPlan
from lorasmith.training.step.metrics import StepOutcome

if TYPE_CHECKING:
    from lorasmith.training.run import Run

MAX_GRAPHS = 128
"""Steps of several ranks have as many forms as there are combinations of buckets, and each graph needs memory."""
StepFunction = Callable[[Batch, StepRng], StepOutcome]


@dataclass
class CapturedStep:
    """One graph with the tensors that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    rng: StepRng
    outcome: StepOutcome


class CudaGraphs:
    """The graphs of a run, by the form of the step. All share one memory pool, since they never run at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps: dict[tuple[Any, ...], CapturedStep | None] = {}
        """By the buckets and sizes of the step's batches, and the shapes of this rank's batch; None: this form has come
        once and is not captured yet."""
        self.pool: Any = None
        self.count = 0
        """How many steps are captured."""
        self.disabled = False
        """Whether capturing has failed, so that all steps run as usual."""

    def close(self) -> None:
        """Free the graphs. Ranks cannot leave their process group before, if graphs hold sums of NCCL."""
        self.steps.clear()
        self.count = 0
        self.pool = None

    def __call__(self, batch: Batch, rng: StepRng, step: StepFunction, plans: Sequence[BatchPlan] = ()) -> StepOutcome:
        """Compute `step(batch, rng)`: as usual, captured, or replayed. `plans`: the step's batches on all ranks."""
        # Batches need graphs of their own if other tensors are there, or have other shapes.
        shapes = tuple((path, tensor.shape, tensor.dtype) for path, tensor in tensors_of(batch).items())
        form = (tuple((plan.bucket, len(plan.views)) for plan in plans), shapes)
        if self.disabled or form not in self.steps:
            self.steps[form] = None
            return step(batch, rng)

        captured = self.steps[form]
        if captured is None and self.count >= MAX_GRAPHS:
            return step(batch, rng)
        if captured is None:
            try:
                captured = self.capture(batch, rng, step)
            except RuntimeError as error:  # an operation of this run waits for the device
                # Capturing changes no weight. If there was no memory, the caller makes room and captures again.
                self.run.memory.updating = False
                if is_out_of_memory(error):
                    raise
                self.disabled = True
                reason = str(error).splitlines()[0]
                self.run.progress.say(f"steps cannot be CUDA graphs here and run one kernel at a time ({reason})")
                return step(batch, rng)
            self.steps[form] = captured
            self.count += 1
        else:
            # The graph reads its batch and its draws from fixed addresses.
            tensors = tensors_of(batch)
            for path, held in tensors_of(captured.batch).items():
                held.copy_(tensors[path], non_blocking=True)
            captured.rng.refill(rng.step, rng.samples)
        captured.graph.replay()

        # The next replay overwrites the outcome, but the log reads it later.
        outcome = captured.outcome
        return StepOutcome(
            loss=outcome.loss.clone(),
            grad_norm=outcome.grad_norm.clone(),
            finite=outcome.finite.clone(),
            weights_finite=outcome.weights_finite.clone(),
            loss_terms={name: mean.clone() for name, mean in outcome.loss_terms.items()},
        )

    def capture(self, batch: Batch, rng: StepRng, step: StepFunction) -> CapturedStep:
        """Record `step` without computing it. Raises RuntimeError if it has an operation that cannot be captured."""
        batch = clone_tensors(batch)

        # One pass of the objective makes all its draws, so that the graph finds them in place.
        rng.freeze()
        with torch.no_grad():
            self.run.objective(self.run.family, batch, rng)

        # Checkpointed passes hold each other until they are collected, and with them the nodes that add up gradients.
        # Such nodes belong to the stream of earlier steps, and a capture may not wait for another stream.
        free_unused()
        graph = torch.cuda.CUDAGraph()
        pool = self.pool or torch.cuda.graph_pool_handle()
        self.run.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        # The thread of NCCL may query its events meanwhile, which would spoil a capture that watches all threads.
        mode = "global" if self.run.ranks.count == 1 else "thread_local"
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode=mode):
                outcome = step(batch, rng)
        except BaseException:
            release_pool_of_failed_capture(pool)
            raise
        self.pool = pool
        return CapturedStep(graph, batch, rng, outcome)


def release_pool_of_failed_capture(pool: Any) -> None:
    """Let the allocator free memory again.

    If CUDA cannot end a capture, torch goes on to allocate for it: nothing is freed any more, in this pool or another
    one (torch 2.11, `CUDAGraph::capture_end`). There is no public function for it.
    """
    internals: Any = import_module("torch._C")
    index = torch.cuda.current_device()
    try:
        internals._cuda_endAllocateToPool(index, pool)
        internals._cuda_releasePool(index, pool)
    except (AttributeError, RuntimeError):  # another version of torch, or the capture had ended
        return


def tensors_of(record: Any) -> dict[str, Tensor]:
    """All tensors of a batch by their path in it, such as `conditioning/tensors/context`: of its fields, and of the
    dataclasses and mappings among these."""
    members: Mapping[str, Any] = record
    if is_dataclass(record):
        members = {field.name: getattr(record, field.name) for field in fields(record)}

    tensors: dict[str, Tensor] = {}
    for name, value in members.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping) or is_dataclass(value):
            tensors |= {f"{name}/{path}": tensor for path, tensor in tensors_of(value).items()}
    return tensors


def clone_tensors(value: Any) -> Any:
    """A copy of a batch with tensors of its own. Without it, replays would write into resident caches."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        members = cast(Mapping[str, Any], value)
        return {name: clone_tensors(member) for name, member in members.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: clone_tensors(getattr(value, field.name)) for field in fields(value)})
    return value

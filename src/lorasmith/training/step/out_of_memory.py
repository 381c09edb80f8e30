"""What a run does when memory does not suffice for a step: it computes the same step with less.

The images of a step, their noise and their weights do not depend on how they are spread over micro-batches
(`core/rng.py`), so a step can be begun again in smaller parts. Only what dropout draws follows from the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorasmith.core.devices import free_unused
from lorasmith.core.errors import LorasmithError
from lorasmith.data.dataset import BatchPlan
from lorasmith.training.memory_levels import CHECKPOINTING, EIGHT_BIT, LAST_EXACT, LEVELS, STREAMED, use_level

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class OutOfMemoryError(LorasmithError):
    """Memory does not suffice, and nothing is left to try. The weights are those before the step."""


@dataclass
class MemoryUse:
    """How a run uses memory at present."""

    level: int = 0
    """Of `memory_levels.LEVELS`."""
    largest: int | None = None
    """The most images that are computed at once; None: as many as a micro-batch has."""
    updating: bool = False
    """Whether the weights are being changed. A step that fails then cannot be made again."""

    def save(self, run: Run, parts: Sequence[tuple[int, BatchPlan]], reason: str) -> None:
        """Free what the failed step holds, and change one thing so that the step needs less.

        Raises OutOfMemoryError if nothing is left to change, or if the weights were being changed.
        """
        number = run.state.step + 1
        free_failed_step(run)
        if self.updating:
            raise OutOfMemoryError(
                f"memory ran out while step {number} changed the weights, so it cannot be made again ({reason})"
            )

        # A graph holds one micro-batch, so smaller ones would cost more time than recomputing does.
        largest = max(len(plan.views) for _, plan in parts)
        graphs = None if run.cuda_graphs is None or run.cuda_graphs.disabled else run.cuda_graphs
        if graphs is not None and self.level < CHECKPOINTING:
            what = self._next_level(run)
        elif largest > 1:
            self.largest = (largest + 1) // 2
            images = "1 image" if self.largest == 1 else f"{self.largest} images"
            what = f"at most {images} at a time from now on; the batch stays {sum(len(p.views) for _, p in parts)}"
        elif self.level < LAST_EXACT:
            what = self._next_level(run)
        elif graphs is not None:
            graphs.disabled = True
            what = "steps run without CUDA graphs from now on"
        else:
            raise OutOfMemoryError(
                f"memory does not suffice for step {number}, even for one image at a time with all that saves memory "
                f"without changing the result ({reason}). Lower data.resolution or adapter.rank, "
                f"set memory = {EIGHT_BIT}, close other programs, or use a device with more memory"
            )
        run.progress.say(f"step {number}: memory does not suffice ({reason}); {what}. The step is made again.")

    def leave_graphs(self, run: Run) -> None:
        """Let steps run without CUDA graphs if weights come and go: a graph would read from addresses that hold
        something else."""
        if self.level >= STREAMED and run.cuda_graphs is not None:
            run.cuda_graphs.disabled = True

    def _next_level(self, run: Run) -> str:
        """Go one memory level up; returns what changes, for people."""
        use_level(run.family, self.level + 1, above=self.level)
        self.level += 1
        self.leave_graphs(run)
        return f"memory level {self.level} from now on: {LEVELS[self.level].name}, {LEVELS[self.level].cost}"


def free_failed_step(run: Run) -> None:
    """Free the gradients and graphs of a step, and what the allocator of a GPU holds for reuse."""
    run.optimizer.zero_grad(set_to_none=True)
    if run.cuda_graphs is not None:
        run.cuda_graphs.close()
    free_unused()

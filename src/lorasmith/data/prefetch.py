"""Reading the images of coming batches in threads while the current batch is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from lorasmith.data.batch import BatchPlan
from lorasmith.data.views import View

MIN_DEPTH = 2
"""How many batches are read ahead, at least."""


class Prefetcher:
    """Threads that read views before they are needed. The result does not depend on the number of threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.depth = max(MIN_DEPTH, workers)
        self._pool = ThreadPoolExecutor(workers, "read-ahead") if workers else None
        self._pending: dict[BatchPlan, list[Future[dict[str, Tensor]]]] = {}

    def take(
        self, plan: BatchPlan, views: Sequence[View], coming: Mapping[BatchPlan, Sequence[View]]
    ) -> list[dict[str, Tensor]]:
        """The tensors of a batch's views; also starts to read the views of the `coming` batches. Raises what reading
        raised."""
        if self._pool is None:
            return [view.read() for view in views]

        # After a jump in the order, what was begun for other batches is not needed any more.
        outdated = [pending for pending in self._pending if pending != plan and pending not in coming]
        for other in outdated:
            for future in self._pending.pop(other):
                future.cancel()

        # The current batch is submitted first, so that its images are read first.
        for other, other_views in ((plan, views), *coming.items()):
            if other not in self._pending:
                self._pending[other] = [self._pool.submit(view.read) for view in other_views]
        return [future.result() for future in self._pending.pop(plan)]

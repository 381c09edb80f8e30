"""Reading images of coming batches while the present one is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from lorasmith.data.views import View

Views = tuple[View, ...]
DEPTH = 2
"""Batches that are read ahead, at least."""


class Prefetcher:
    """Threads that read views before they are asked for. What comes out does not depend on their number."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.depth = max(DEPTH, workers)
        self._pool = ThreadPoolExecutor(workers, "read-ahead") if workers else None
        self._waiting: dict[object, list[Future[dict[str, Tensor]]]] = {}

    def take(self, name: object, views: Views, coming: Sequence[tuple[object, Views]]) -> list[dict[str, Tensor]]:
        """The tensors of a batch's views; then the `coming` batches, by name, are begun. Raises what reading raised."""
        if self._pool is None:
            return [view.read() for view in views]
        futures = self._waiting.pop(name, None) or self._begin(self._pool, views)
        kept = {other for other, _ in coming}
        for other in [n for n in self._waiting if n not in kept]:
            for future in self._waiting.pop(other):
                future.cancel()
        for other, their in coming:
            if other not in self._waiting:
                self._waiting[other] = self._begin(self._pool, their)
        return [future.result() for future in futures]

    def _begin(self, pool: ThreadPoolExecutor, views: Views) -> list[Future[dict[str, Tensor]]]:
        return [pool.submit(view.read) for view in views]

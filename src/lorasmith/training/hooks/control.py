"""Carries out requests to a run that is under way: stop, preview, export or checkpoint now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.checkpoint import Checkpoints
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.preview import Previews
from lorasmith.training.output.control import CHECKPOINT, EXPORT, PREVIEW, STOP, take_requests

if TYPE_CHECKING:
    from lorasmith.training.run import Run

INTERVAL = 0.5
"""Seconds between two looks at the folder of requests; steps may be much faster."""


class Control(Hook):
    """Part of every run, not a kind that a config can name. The requests are described in `training.output.control`."""

    def finish(self, run: Run) -> None:
        """Nothing: a run that is at its end writes everything anyway."""

    def due(self, run: Run) -> bool:
        now = time.monotonic()
        return now - run.hook_state.get(self._clock_key, -INTERVAL) >= INTERVAL

    def act(self, run: Run) -> None:
        for request in take_requests(run.folder):
            refusal = self.answer(run, request)
            run.events.write("control", run.state.step, request=request, refused=refusal)
            run.progress.say(f"step {run.state.step}: request to {request}" + (f": {refusal}" if refusal else ""))

    def answer(self, run: Run, request: str) -> str:
        """Carry out a request; returns why it cannot be done, or an empty string."""
        if request == STOP:
            run.stopping = True
            return ""
        kind = {PREVIEW: Previews, EXPORT: Exports, CHECKPOINT: Checkpoints}[request]
        hook = next((hook for hook in run.hooks if isinstance(hook, kind)), None)
        if hook is None:
            return f"the config of the run has no [{request}]"
        # it may have been due after this very step
        if not hook.has_acted(run):
            hook.act_while_training(run)
        return ""

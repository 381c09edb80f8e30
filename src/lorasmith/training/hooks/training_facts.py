"""Records whether a run trains at all, for its report and `inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PrivateAttr

from lorasmith.training.hooks.base import Hook
from lorasmith.training.output.training_facts import adapters_with_gradient, training_facts

if TYPE_CHECKING:
    from lorasmith.training.run import Run

LOOKED_AT = (1, 2, 3, 10, 100)
"""Steps of a session after which gradients are looked at; each look waits for the device."""


class TrainingFacts(Hook):
    """Part of every run, not a kind that a config can name. Gradients are looked at after a few steps only, so that
    steps do not become slower."""

    every_minutes: float | None = 10.0
    _with_gradient: set[str] = PrivateAttr(default_factory=set[str])
    _steps: int = PrivateAttr(0)
    """Steps of this session."""

    def after_step(self, run: Run) -> None:
        self._steps += 1
        if self._steps in LOOKED_AT:
            self._with_gradient |= adapters_with_gradient(run)
        super().after_step(run)

    def finish(self, run: Run) -> None:
        """Record the facts of the finished run. What fails here must not cost the files of the end."""
        if not self.has_acted(run):
            self.act_while_training(run)

    def act(self, run: Run) -> None:
        if len(run.adapters) == 0:
            return
        self._with_gradient |= adapters_with_gradient(run)
        run.events.write("facts", run.state.step, **training_facts(run, self._with_gradient))

"""What criteria that end a run early have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class StopCriterion(Hook):
    """Decides whether a run has converged. Each criterion is a file of its own; a run may have several."""

    stop: bool = True
    """End the run with one further step, which writes all files of a finished run. If off, only say that the run has
    converged, and train on."""

    @abstractmethod
    def reason_to_stop(self, run: Run) -> str:
        """Why the run has converged, in words; empty if it has not."""

    def start(self, run: Run) -> None:
        super().start(run)
        # a run that ended early and is resumed stays at its end
        ended = self._events(run)
        if ended and self.stop:
            run.length = replace(run.length, steps=max(run.state.step, int(ended[-1]["step"]) + 1))

    def act(self, run: Run) -> None:
        step = run.state.step
        if self._events(run) or step >= run.length.steps:
            return
        reason = self.reason_to_stop(run)
        if not reason:
            return
        may_stop = self.stop and run.ranks.count == 1
        run.events.write("converged", step, criterion=self._name, reason=reason, stops=may_stop)
        outcome = "the run ends with the next step" if may_stop else "the loss changes little from here on"
        if self.stop and not may_stop:
            outcome += "; stop it by hand, since only one process of several knows this"
        run.progress.say(f"converged at step {step} ({reason}); {outcome}")
        # with the next step and not at once, so that every hook sees its last step before it
        if may_stop:
            run.length = replace(run.length, steps=min(run.length.steps, step + 1))

    @property
    def _name(self) -> str:
        return str(self.model_dump()["kind"])

    def _events(self, run: Run) -> list[dict[str, Any]]:
        """The events in which this criterion has said that the run has converged; one at most."""
        return [event for event in run.events.of("converged") if event.get("criterion") == self._name]

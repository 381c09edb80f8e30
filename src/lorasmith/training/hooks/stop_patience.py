"""Ends a run when its loss on held-out images has risen for some time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lorasmith.training.hooks.stop_criterion import StopCriterion
from lorasmith.training.output.best import HeldOutLoss, choose, losses_by_step

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Patience(StopCriterion):
    """Ends a run when the last few validations in a row are worse than the best one.

    Worse is meant as in `[best]` with `by = "loss"`: the 90 % interval of the differences, image by image, is above 0,
    so that noise does not end a run. Needs held-out images (`data.validation`).
    """

    kind: Literal["patience"] = "patience"
    needs_held_out: ClassVar[bool] = True
    every_steps: int | None = Field(default=1, ge=1)
    validations: int = Field(default=5, ge=1)
    """So many validations in a row must be worse."""

    def reason_to_stop(self, run: Run) -> str:
        # a step without a validation has nothing new to say
        last = run.events.of("validation")[-1:]
        if not last or last[0].get("step") != run.state.step:
            return ""
        measured = [loss for step, loss in losses_by_step(run.events.of("validation")).items() if step > 0]
        if not measured:
            return ""
        worse, best_step = worse_than_best(measured)
        if worse < self.validations:
            return ""
        return f"{worse} validations in a row are worse than that of step {best_step}"


def worse_than_best(measured: Sequence[HeldOutLoss]) -> tuple[int, int]:
    """How many of the last validations are worse than the best one, and its step."""
    best_step = choose(measured).best.step
    return sum(loss.step > best_step for loss in measured), best_step

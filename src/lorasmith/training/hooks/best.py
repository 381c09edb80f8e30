"""Keeps the best weights of a run, by the loss on held-out images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.output.best import Choice, choose, losses_by_step

if TYPE_CHECKING:
    from lorasmith.training.run import Run

METADATA_KEY = "lorasmith.best"


class BestExport(Hook):
    """Decides at each export, and at validations in between, which weights of the run are the best, and keeps them.

    The rule: the latest weights whose loss on the held-out images is not worse than the lowest one, where worse means
    that the 90 % interval of the differences, image by image at the same noise and timesteps, is above 0. The reason
    is in the report and in the file's metadata. With fewer than four held-out images it says that the evidence is weak.
    """

    kind: Literal["best"] = "best"
    file: bool = True
    """Keep the best weights as `name-best.safetensors`. Otherwise the report only says at which step they were."""
    most: int = Field(default=20, ge=1)
    """How many validations are judged at most, spread evenly over the run, beside those at exports."""
    _export_is_new: bool = PrivateAttr(False)
    """Whether an export has been written since weights were last judged."""

    def open(self, run: Run) -> None:
        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            self._export_is_new |= event == "export"

        run.events.listen(on_event)

    def due(self, run: Run) -> bool:
        if self._export_is_new or super().due(run):
            return True
        validation = validation_of(run)
        return validation is not None and validation.has_acted(run) and self._is_another_part(run)

    def _is_another_part(self, run: Run) -> bool:
        """Whether the run, cut into `most` parts, has entered another one since weights were last judged."""
        judged = run.events.of("best")
        last_step = judged[-1]["step"] if judged else 0
        return run.state.step * self.most // run.length.steps > last_step * self.most // run.length.steps

    def act(self, run: Run) -> None:
        self._export_is_new = False
        choice = self.judge(run)
        if choice is None:
            return
        step = run.state.step
        last = run.events.of("best")[-1:]
        file = last[0].get("file") if last else None
        if choice.best.step == step and self.file:
            exports = next(hook for hook in run.hooks if isinstance(hook, Exports))
            path = exports.write_best(run, {METADATA_KEY: json.dumps(choice.to_json())})
            file = run.relative_path(path)
        run.events.write("best", step, file=file, **choice.to_json())
        if step >= run.length.steps:
            run.progress.say(f"best weights: {choice.reason}" + (f" ({file})" if file else ""))

    def judge(self, run: Run) -> Choice | None:
        """The best weights so far, those of the step just made included; None if their loss could not be measured."""
        step = run.state.step
        validation = validation_of(run)
        if validation is None:
            return None
        if not validation.has_acted(run):
            validation.act_while_training(run)
        losses = losses_by_step(run.events.of("validation"))
        if step not in losses:
            return None
        steps = {event["step"] for event in run.events.of("best")} | {step}
        measured = [losses[judged] for judged in sorted(steps) if judged in losses]
        return choose(measured, losses.get(0))


def validation_of(run: Run) -> Validation | None:
    """The hook that measures the loss on the held-out images."""
    return next((hook for hook in run.hooks if isinstance(hook, Validation)), None)

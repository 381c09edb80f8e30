"""Decides which weights of a run are the best, and keeps them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.output.best import Choice, choose, losses_by_step
from lorasmith.training.output.best_likeness import LikenessChoice, choose_by_likeness, likeness_by_step

if TYPE_CHECKING:
    from lorasmith.training.hooks.scores import Scores
    from lorasmith.training.run import Run

METADATA_KEY = "lorasmith.best"


class BestExport(Hook):
    """Decides at exports which weights of the run are the best, and keeps them as a file of their own.

    By likeness, where the hook `scores` measures it: the latest weights whose likeness is not lower than the highest
    one. By the loss on held-out images, with `by = "loss"`: the latest weights whose loss is not worse than the
    lowest one, at exports and at validations in between. Lower and worse mean that the 90 % interval of the paired
    differences (the same prompts and seeds, or images, noise and timesteps) excludes 0. The reason is in the report
    and in the file's metadata. Where the evidence is weak, it says so.
    """

    kind: Literal["best"] = "best"
    by: Literal["auto", "likeness", "loss"] = "auto"
    """What decides. `likeness`: the four numbers of the hook `scores`. `loss`: the held-out images. `auto`: likeness if
    there is a hook `scores`; otherwise the last weights are the ones to use, and the report says since which step the
    held-out loss rises. (On the tiny base, weights of lower held-out loss drew the subject less often:
    docs/measurements/quality.md.)"""
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
        scores = self._scores(run)
        if scores is not None:
            return scores.due(run)
        validation = validation_of(run)
        return validation is not None and validation.has_acted(run) and self._is_another_part(run)

    def _is_another_part(self, run: Run) -> bool:
        """Whether the run, cut into `most` parts, has entered another one since weights were last judged."""
        judged = run.events.of("best")
        last_step = judged[-1]["step"] if judged else 0
        return run.state.step * self.most // run.length.steps > last_step * self.most // run.length.steps

    def act(self, run: Run) -> None:
        self._export_is_new = False
        scores = self._scores(run)
        choice = self.judge(run) if scores is None else judge_by_likeness(run, scores)
        if choice is None:
            return
        # if no rule was chosen, the loss is only a remark on the last weights
        is_remark = scores is None and self.by != "loss"
        file = self._keep(run, choice) if self.file and not is_remark else None
        remark = {"remark": True} if is_remark else {}
        run.events.write("best", run.state.step, file=file, **choice.to_json(), **remark)
        if run.state.step >= run.length.steps:
            label = "held-out loss" if is_remark else "best weights"
            run.progress.say(f"{label}: {choice.reason}" + (f" ({file})" if file else ""))

    def _keep(self, run: Run, choice: Choice | LikenessChoice) -> str | None:
        """Write the weights of this step if they are the best ones; the file with the best ones, from the folder of the
        run."""
        if choice.best.step == run.state.step:
            exports = next(hook for hook in run.hooks if isinstance(hook, Exports))
            return run.relative_path(exports.write_best(run, {METADATA_KEY: json.dumps(choice.to_json())}))
        last = run.events.of("best")[-1:]
        return last[0].get("file") if last else None

    def judge(self, run: Run) -> Choice | None:
        """The best weights so far by the held-out loss, those of the step just made included; None if their loss could
        not be measured."""
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

    def _scores(self, run: Run) -> Scores | None:
        """The hook whose numbers decide; None if the held-out loss does."""
        return None if self.by == "loss" else scores_of(run)


def judge_by_likeness(run: Run, scores: Scores) -> LikenessChoice | None:
    """The best weights so far by likeness, those of the step just made included; None if theirs could not be
    measured."""
    step = run.state.step
    measured = likeness_by_step(run.events.of("scores"))
    if step not in measured:
        # it comes after this hook, and the weights of this step can only be kept now
        scores.act_while_training(run)
        measured = likeness_by_step(run.events.of("scores"))
    return choose_by_likeness(list(measured.values())) if step in measured else None


def scores_of(run: Run) -> Scores | None:
    """The hook that measures the four numbers."""
    from lorasmith.training.hooks.scores import Scores

    return next((hook for hook in run.hooks if isinstance(hook, Scores)), None)


def validation_of(run: Run) -> Validation | None:
    """The hook that measures the loss on the held-out images."""
    return next((hook for hook in run.hooks if isinstance(hook, Validation)), None)

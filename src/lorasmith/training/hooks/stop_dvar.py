"""Ends a run when its loss on one fixed batch no longer moves: DVAR (arXiv 2302.04841)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pvariance
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from lorasmith.core.rng import StepRng
from lorasmith.training.hooks.stop_criterion import StopCriterion
from lorasmith.training.step.batches import prepare_batch

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FIRST_SAMPLE = 1 << 30
"""Draws of the fixed batch are those of samples that no step has."""


class Dvar(StopCriterion):
    """Deterministic variance evaluation: the loss of one batch of training images at fixed noise and timesteps.

    The run has converged when the variance of its last values is below `threshold` times the variance of all (equation
    5 and algorithm 1 of the paper, whose window is 310 steps and whose threshold is 0.15). Needs no held-out images.
    Where the loss falls much in the first steps, as on the tiny base, this is so as soon as there are two windows
    (docs/measurements/quality.md).
    """

    kind: Literal["dvar"] = "dvar"
    every_steps: int | None = Field(default=5, ge=1)
    """Steps between two measurements. Each costs `draws` forward passes of a batch."""
    window: int = Field(default=60, ge=3)
    """The number of last measurements whose variance counts."""
    threshold: float = Field(default=0.15, gt=0, lt=1)
    draws: int = Field(default=4, ge=1)
    """How often the batch is measured, with other noise and timesteps each."""
    _losses: list[float] = PrivateAttr(default_factory=list[float])

    def start(self, run: Run) -> None:
        super().start(run)
        # those of the sessions before
        for event in run.events.of("fixed_loss"):
            if isinstance(event.get("loss"), int | float):
                self._losses.append(float(event["loss"]))

    def reason_to_stop(self, run: Run) -> str:
        loss = self.fixed_loss(run)
        run.events.write("fixed_loss", run.state.step, loss=loss)
        self._losses.append(loss)
        ratio = variance_ratio(self._losses, self.window)
        if ratio is None or ratio >= self.threshold:
            return ""
        return f"the loss of a fixed batch varies {ratio:.2g} times as much as over the whole run"

    def fixed_loss(self, run: Run) -> float:
        """The mean loss of the first batch of the run at fixed noise and timesteps."""
        plan = run.dataset.epoch(0)[0]
        total = 0.0
        with run.as_exported():
            for draw in range(self.draws):
                batch = prepare_batch(run, run.dataset.load(plan))
                first = FIRST_SAMPLE + draw * len(batch.names)
                rng = StepRng(run.seed, 0, list(range(first, first + len(batch.names))), run.device)
                total += float(run.objective(run.family, batch, rng).per_sample.mean())
        return total / self.draws


def variance_ratio(losses: Sequence[float], window: int) -> float | None:
    """The variance of the last `window` losses over that of all; None if there are fewer than two windows of them."""
    # the window must be a part of the run only, or its variance would be that of all
    if len(losses) < 2 * window:
        return None
    whole = pvariance(losses)
    return pvariance(losses[-window:]) / whole if whole > 0 else 0.0

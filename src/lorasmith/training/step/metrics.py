"""Numbers of the steps that stay on the device until the log reads them, many steps at once."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError

MAX_BAD_STEPS = 3
"""The run ends after this many steps in a row with a loss or gradient that is not finite."""


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step gave: scalar tensors that stay on the device."""

    loss: Tensor
    """Mean over the samples of the step."""
    grad_norm: Tensor
    """Norm of the gradient before clipping."""
    finite: Tensor
    """Boolean: whether the weights were updated; false if the loss or a gradient was not finite."""
    weights_finite: Tensor
    """Boolean: whether all trained weights are finite after the step."""
    loss_terms: dict[str, Tensor]
    """The terms of the loss by name, means over the samples; empty if the objective has one term only."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step with everything that the log says about it."""

    number: int
    """Counted from 1."""
    epoch: int
    """Counted from 0."""
    outcome: StepOutcome
    images: tuple[str, ...]
    """Paths of the step's images, those of all ranks."""
    learning_rates: dict[str, float]
    """By the names of the parameter groups."""
    seconds: float
    """Time in steps before this one."""
    samples: int
    """Samples seen, those of this step included."""
    scaled: bool = False
    """Whether the loss is scaled (fp16). An overflow of scaled gradients is no fault of the data."""


@dataclass(frozen=True)
class LogEntry:
    """One event for the log."""

    event: str
    fields: dict[str, Any]


class MetricsBuffer:
    """Steps whose numbers have not been read. Reading waits for the device once, however many steps there are."""

    def __init__(self) -> None:
        self._unread: list[StepRecord] = []
        self._bad_steps: list[StepRecord] = []
        """Steps with a non-finite loss or gradient since the last good step."""
        self._first_ruined_step: int | None = None
        """The first step after which a weight was not finite."""
        self.smooth_loss: float | None = None
        """Exponential mean of the loss over about 50 steps, for the progress line."""

    def add(self, step: StepRecord) -> None:
        self._unread.append(step)

    def drain(self) -> list[LogEntry]:
        """Read all steps added since the last call. A step that was left out gives a `skip` entry with its images."""
        steps = self._unread
        self._unread = []
        if not steps:
            return []

        # All numbers in one transfer from the device.
        scalars: list[Tensor] = []
        for step in steps:
            outcome = step.outcome
            scalars += [outcome.loss, outcome.grad_norm, outcome.finite, outcome.weights_finite]
            scalars += outcome.loss_terms.values()
        numbers: Iterator[float] = iter(torch.stack([scalar.float() for scalar in scalars]).tolist())

        entries: list[LogEntry] = []
        for step in steps:
            loss, grad_norm, finite = next(numbers), next(numbers), bool(next(numbers))
            if not next(numbers) and self._first_ruined_step is None:
                self._first_ruined_step = step.number
            loss_terms = {name: next(numbers) for name in step.outcome.loss_terms}
            if finite:
                entries.append(self._good_step(step, loss, grad_norm, loss_terms))
            else:
                entries.append(self._skipped_step(step, loss))
        return entries

    def _good_step(self, step: StepRecord, loss: float, grad_norm: float, loss_terms: dict[str, float]) -> LogEntry:
        self._bad_steps = []
        if self.smooth_loss is None:
            self.smooth_loss = loss
        else:
            self.smooth_loss += (loss - self.smooth_loss) / 50
        fields: dict[str, Any] = {
            "step": step.number,
            "epoch": step.epoch,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": step.learning_rates,
            "seconds": round(step.seconds, 3),
            "samples": step.samples,
        }
        return LogEntry("step", fields | loss_terms)

    def _skipped_step(self, step: StepRecord, loss: float) -> LogEntry:
        if math.isfinite(loss) and step.scaled:
            # Expected now and then while the loss scale is searched, so it does not count as a bad step.
            reason = "a gradient overflowed in fp16; the loss scale was halved"
        else:
            reason = "the loss or a gradient is not a finite number"
            self._bad_steps.append(step)
        return LogEntry("skip", {"step": step.number, "reason": reason, "images": list(step.images)})

    @property
    def last_step_was_bad(self) -> bool:
        """Whether the last step that was read was left out. Its weights may be the reason: they may be finite, and yet
        so large that every loss overflows."""
        return bool(self._bad_steps)

    def raise_if_diverged(self) -> None:
        """Raises LorasmithError if a weight is not finite, or after three bad steps in a row. In the second case the
        weights are those before the first of these steps."""
        if self._first_ruined_step is not None:
            raise LorasmithError(not_finite_message(self._first_ruined_step))
        if len(self._bad_steps) < MAX_BAD_STEPS:
            return
        last_steps = self._bad_steps[-MAX_BAD_STEPS:]
        steps = ", ".join(f"{step.number} ({', '.join(step.images)})" for step in last_steps)
        raise LorasmithError(
            f"{len(self._bad_steps)} steps in a row gave a loss or gradient that is not a finite number: {steps}. "
            "These steps were left out, so the last checkpoint and exports are good. Look at the images named; if "
            'they are in order, lower optimizer.lr, or use precision = "bf16" or "fp32" instead of fp16.'
        )


def not_finite_message(step: int) -> str:
    """The error for weights that an update has made infinite or NaN."""
    return (
        f"after step {step} a trained weight is not a finite number, so the step was far too large. No checkpoint and "
        "no export was made of it. Lower optimizer.lr (or set optimizer.clip above 0)."
    )

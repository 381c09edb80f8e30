"""What the steps collect on the device, read back all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError

IN_A_ROW = 3
"""So many steps with a non-finite loss or gradient end the run."""


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step gave: scalars that stay on the device, and the names of its images."""

    loss: Tensor
    grad_norm: Tensor
    finite: Tensor
    """Whether the step was taken; false if the loss or a gradient was not finite."""
    names: tuple[str, ...]
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step as the log sees it."""

    number: int
    epoch: int
    outcome: StepOutcome
    lr: dict[str, float]
    seconds: float
    samples: int
    scaled: bool = False
    """fp16: an overflow of the scaled gradients is no fault of the data."""


@dataclass(frozen=True)
class LogEntry:
    """A line for the log."""

    event: str
    fields: dict[str, Any]


class MetricsBuffer:
    """Steps not yet read. Reading waits for the device once, however many there are."""

    def __init__(self) -> None:
        self._pending: list[StepRecord] = []
        self.bad_in_a_row = 0
        self._bad: list[tuple[int, tuple[str, ...]]] = []
        self.smooth: float | None = None
        """Exponential mean of the loss over about 50 steps, for the progress line."""

    def add(self, step: StepRecord) -> None:
        self._pending.append(step)

    def drain(self) -> list[LogEntry]:
        """Read what has been collected. A step that was left out becomes a `skip` line that names its images."""
        pending, self._pending = self._pending, []
        if not pending:
            return []
        outcomes = [s.outcome for s in pending]
        values = [[o.loss, o.grad_norm, o.finite, *o.parts.values()] for o in outcomes]
        flat = iter(torch.stack([v.float() for row in values for v in row]).tolist())
        return [self._read(step, [next(flat) for _ in row]) for step, row in zip(pending, values, strict=True)]

    def _read(self, step: StepRecord, values: list[float]) -> LogEntry:
        loss, norm, finite, *parts = values
        if not finite and math.isfinite(loss) and step.scaled:
            reason = "a gradient overflowed in fp16; the loss scale was halved"
            return LogEntry("skip", {"step": step.number, "reason": reason, "images": list(step.outcome.names)})
        if not finite:
            self.bad_in_a_row += 1
            self._bad.append((step.number, step.outcome.names))
            reason = "the loss or a gradient is not a finite number"
            return LogEntry("skip", {"step": step.number, "reason": reason, "images": list(step.outcome.names)})
        self.bad_in_a_row, self._bad = 0, []
        self.smooth = loss if self.smooth is None else self.smooth + (loss - self.smooth) / 50
        fields: dict[str, Any] = {"step": step.number, "epoch": step.epoch, "loss": loss, "grad_norm": norm}
        fields |= {"lr": step.lr, "seconds": round(step.seconds, 3), "samples": step.samples}
        fields |= dict(zip(step.outcome.parts, parts, strict=True))
        return LogEntry("step", fields)

    def stop_if_lost(self) -> None:
        """Raises LorasmithError after three bad steps in a row; the weights are those before the first of them."""
        if self.bad_in_a_row < IN_A_ROW:
            return
        steps = ", ".join(f"{number} ({', '.join(names)})" for number, names in self._bad[-IN_A_ROW:])
        raise LorasmithError(
            f"{self.bad_in_a_row} steps in a row gave a loss or gradient that is not a finite number: {steps}. "
            "These steps were left out, so the last checkpoint and exports are good. Look at the images named; else "
            'lower optimizer.lr, or use precision = "bf16" or "fp32" in place of fp16.'
        )

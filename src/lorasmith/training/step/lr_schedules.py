"""Learning rate schedules: pure functions of the step, so there is no state to save.

Each gives the factor of the learning rate for a step in [0, total). Warm-up is linear over the first `warmup` steps
(a number below 1 is a share of the run). The shape runs over the steps after it.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Component


class LrSchedule(Component, root="lr schedule", default="constant"):
    """The shape of the learning rate over the run."""

    warmup: float = Field(default=0, ge=0)
    """Steps of linear warm-up; a number below 1 is a share of the run."""

    def factor(self, step: int, total: int) -> float:
        """The factor for optimizer step `step`, counted from 0, of a run of `total` steps."""
        warmup = self.warmup_steps(total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.factor_after_warmup(step, total, warmup)

    def factor_after_warmup(self, step: int, total: int, warmup: int) -> float:
        """The factor for a step in [warmup, total). Schedules that depend on more than `progress` override this."""
        progress = (step - warmup) / max(1, total - warmup)
        return self.shape(min(1.0, progress))

    @abstractmethod
    def shape(self, progress: float) -> float:
        """The factor at `progress` in [0, 1] of the steps after warm-up."""

    def warmup_steps(self, total: int) -> int:
        """Steps of warm-up in a run of `total`."""
        return round(self.warmup * total) if self.warmup < 1 else int(self.warmup)


class Constant(LrSchedule):
    kind: Literal["constant"] = "constant"

    def shape(self, progress: float) -> float:
        return 1.0


class Linear(LrSchedule):
    """From 1 to `end`."""

    kind: Literal["linear"] = "linear"
    end: float = Field(default=0.0, ge=0)

    def shape(self, progress: float) -> float:
        return 1 + (self.end - 1) * progress


class Cosine(LrSchedule):
    """Half a cosine from 1 to `end` (SGDR without restarts, arXiv 1608.03983)."""

    kind: Literal["cosine"] = "cosine"
    end: float = Field(default=0.0, ge=0)

    def shape(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class CosineWithRestarts(LrSchedule):
    """`cycles` half cosines, each from 1 to 0 (SGDR, arXiv 1608.03983)."""

    kind: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    cycles: int = Field(default=1, ge=1)

    def shape(self, progress: float) -> float:
        return 0.0 if progress >= 1 else (1 + math.cos(math.pi * (self.cycles * progress % 1))) / 2


class Polynomial(LrSchedule):
    """(1 - progress)^power, from 1 to `end`."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(default=1.0, gt=0)
    end: float = Field(default=0.0, ge=0)

    def shape(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 - progress) ** self.power


class InverseSqrt(LrSchedule):
    """1 / sqrt((step - warmup + timescale) / timescale) after warm-up (arXiv 2106.04560, section 3.3)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: float | None = Field(default=None, gt=0)
    """Steps after warm-up until the rate has fallen to 1 / sqrt(2). Default: the steps of warm-up, or 10000 without."""

    def shape(self, progress: float) -> float:
        raise NotImplementedError  # it depends on the step, not on the progress

    def factor_after_warmup(self, step: int, total: int, warmup: int) -> float:
        timescale = self.timescale or warmup or 10000
        return (1 + (step - warmup) / timescale) ** -0.5


class WarmupStableDecay(LrSchedule):
    """Constant, then over the last `decay` steps half a cosine to `end` (arXiv 2404.06395, section 4)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay: float = Field(default=0.1, ge=0)
    """Steps of the decay; a number below 1 is a share of the run."""
    end: float = Field(default=0.0, ge=0)

    def shape(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2

    def factor_after_warmup(self, step: int, total: int, warmup: int) -> float:
        decay = round(self.decay * total) if self.decay < 1 else int(self.decay)
        decay_start = total - decay
        if step < decay_start:
            return 1.0
        return self.shape(min(1.0, (step - decay_start) / max(1, decay)))


class PiecewiseConstant(LrSchedule):
    """Factors, each with the step at which it ends: `[[1.0, 100], [0.1, 200]]`; after the last step, `end`."""

    kind: Literal["piecewise_constant"] = "piecewise_constant"
    pieces: tuple[tuple[float, int], ...] = Field(min_length=1)
    end: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _check_order(self) -> PiecewiseConstant:
        ends = [end for _, end in self.pieces]
        steps_rise = ends == sorted(set(ends)) and ends[0] >= 1
        if not steps_rise or any(factor < 0 for factor, _ in self.pieces):
            raise ValueError(
                "pieces must be [factor, step at which it ends], with rising steps from 1 on and factors of at least 0"
            )
        return self

    def shape(self, progress: float) -> float:
        raise NotImplementedError  # it depends on the step, not on the progress

    def factor_after_warmup(self, step: int, total: int, warmup: int) -> float:
        for factor, end in self.pieces:
            if step < end:
                return factor
        return self.end


class AnySchedule(LrSchedule):
    """A class of `torch.optim.lr_scheduler` by its name, or any other by its dotted path, with `args`.

    The schedule is run once beforehand on an optimizer without gradients, so there is no state to save. A schedule that
    depends on the loss cannot be used.
    """

    kind: Literal["class"] = "class"
    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    _factors: list[float] = PrivateAttr(default_factory=list[float])

    def imported_names(self) -> tuple[str, ...]:
        # torch is imported anyway
        outside = "." in self.name and not self.name.startswith("torch.")
        return (self.name,) if outside else ()

    def shape(self, progress: float) -> float:
        raise NotImplementedError  # it depends on the step, not on the progress

    def factor_after_warmup(self, step: int, total: int, warmup: int) -> float:
        if not self._factors:
            self._factors.extend(self._run_schedule(total - warmup + 1))
        return self._factors[min(step - warmup, len(self._factors) - 1)]

    def _run_schedule(self, steps: int) -> list[float]:
        """The factors of the first steps. Raises LorasmithError if the class cannot be used."""
        module, _, name = self.name.rpartition(".")
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        factors: list[float] = []
        try:
            schedule_class = getattr(importlib.import_module(module or "torch.optim.lr_scheduler"), name)
            schedule = schedule_class(optimizer, **self.args)
            for _ in range(steps):
                factors.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                schedule.step()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise LorasmithError(
                f'lr_schedule: "{self.name}" with {self.args} cannot be used: {error}. Give a class of '
                "torch.optim.lr_scheduler, or a dotted path, whose step() takes nothing"
            ) from None
        return factors

"""Loss on held-out images, at fixed timesteps and with fixed noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.training.hooks.base import Hook
from lorasmith.training.step.batches import complete

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class At(TimestepSampler):
    """One t for all; not a kind of its own."""

    t: int

    def __call__(self, rng: StepRng, schedule: NoiseSchedule) -> Tensor:
        return torch.full((len(rng.samples),), self.t, device=rng.device, dtype=torch.int64)


class Validation(Hook):
    """The training loss on images that are never trained on.

    Timesteps and noise are the same each time, so that the curve moves only when the weights do; the base model's own
    loss at the same points stands beside it.
    """

    kind: Literal["validation"] = "validation"
    every_epochs: int | None = Field(default=1, ge=1)
    at_start: bool = True
    timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    """Each held-out image is measured at each of these."""

    def act(self, run: Run) -> None:
        with run.showing():
            by_t = {t: self._loss(run, t) for t in self.timesteps}
            key = f"{self._mark}.base"
            if key not in run.marks:
                with run.as_base():
                    run.marks[key] = _mean([self._loss(run, t) for t in self.timesteps])
        loss, base = _mean(list(by_t.values())), run.marks[key]
        run.events.write(
            "validation", run.state.step, loss=loss, by_t={str(t): v for t, v in by_t.items()}, base_loss=base
        )
        run.progress.say(f"step {run.state.step}: validation loss {loss:.4f} (base {base:.4f})")

    def _loss(self, run: Run, t: int) -> float:
        objective = run.config.objective.model_copy(update={"timesteps": At(t=t)})
        total, count = 0.0, 0
        for plan in run.dataset.validation_plans():
            batch = complete(run, run.dataset.load(plan))
            samples = list(range(count, count + len(batch.names)))
            result = objective(run.family, batch, StepRng(run.config.seed, t, samples, run.device))
            total, count = total + float(result.per_sample.sum()), count + len(samples)
        return total / max(1, count)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

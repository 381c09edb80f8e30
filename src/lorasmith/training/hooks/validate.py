"""Loss on held-out images, at fixed timesteps and with fixed noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.training.hooks.base import Hook
from lorasmith.training.step.batches import prepare_batch

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class ConstantTimestep(TimestepSampler):
    """The same timestep for all samples. Not a kind that a config can name."""

    t: int

    def __call__(self, rng: StepRng, path: DiffusionPath) -> Tensor:
        count = len(rng.samples)
        steps = torch.full((count,), self.t, device=rng.device, dtype=torch.int64)
        return path.from_step(steps)


class Validation(Hook):
    """Measures the training loss on images that are never trained on.

    Timesteps and noise are the same each time, so the curve changes only when the weights do. The loss of the base
    model at the same timesteps and noise is measured once, for comparison.
    """

    kind: Literal["validation"] = "validation"
    every_epochs: int | None = Field(default=1, ge=1)
    at_start: bool = True
    timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    """Each held-out image is measured at each of these timesteps."""

    def act(self, run: Run) -> None:
        base_key = f"{self._state_key}.base"
        with run.as_exported():
            by_timestep = {t: self._mean_loss(run, t) for t in self.timesteps}
            # the base model does not change, so its loss is measured only the first time
            if base_key not in run.hook_state:
                with run.as_base():
                    base_losses = [self._mean_loss(run, t) for t in self.timesteps]
                run.hook_state[base_key] = sum(base_losses) / len(base_losses)

        loss = sum(by_timestep.values()) / len(by_timestep)
        base_loss = run.hook_state[base_key]
        step = run.state.step
        # keys of JSON are texts
        by_t = {str(t): value for t, value in by_timestep.items()}
        run.events.write("validation", step, loss=loss, by_t=by_t, base_loss=base_loss)
        run.progress.say(f"step {step}: validation loss {loss:.4f} (base {base_loss:.4f})")

    def _mean_loss(self, run: Run, t: int) -> float:
        """The mean loss over the held-out images at timestep `t`."""
        # the objective of the training, except that timesteps are not drawn
        constant = ConstantTimestep(t=t)
        objective = run.objective.model_copy(update={"timesteps": constant})
        total = 0.0
        count = 0
        for plan in run.dataset.validation_plans():
            batch = prepare_batch(run, run.dataset.load(plan))
            # the noise of an image follows from its place among the held-out images and from t
            samples = list(range(count, count + len(batch.names)))
            rng = StepRng(run.seed, t, samples, run.device)
            result = objective(run.family, batch, rng)
            total += float(result.per_sample.sum())
            count += len(samples)
        return total / max(1, count)

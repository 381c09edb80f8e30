"""Loss on held-out images, at fixed timesteps and with fixed noise."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import torch
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.core.rng import StepRng
    from lorasmith.diffusion.path import DiffusionPath
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

    def start(self, run: Run) -> None:
        if not run.dataset.validation:
            run.progress.say("[validation] measures nothing: no image is held out (data.validation.split or .images)")
        super().start(run)

    def act(self, run: Run) -> None:
        if not run.dataset.validation:
            return
        base_key = f"{self._state_key}.base"
        with run.as_exported():
            losses = {t: self._losses(run, t) for t in self.timesteps}
            # the base model does not change, so its loss is measured only the first time
            if base_key not in run.hook_state:
                with run.as_base():
                    run.hook_state[base_key] = fmean([fmean(self._losses(run, t)) for t in self.timesteps])

        by_timestep = {t: fmean(values) for t, values in losses.items()}
        loss = fmean(by_timestep.values())
        # the same images in the same order each time, so that differences of two steps can be taken image by image
        by_image = [fmean(values) for values in zip(*losses.values(), strict=True)]
        base_loss = run.hook_state[base_key]
        step = run.state.step
        # keys of JSON are texts
        by_t = {str(t): value for t, value in by_timestep.items()}
        run.events.write("validation", step, loss=loss, by_t=by_t, base_loss=base_loss, by_image=by_image)
        run.progress.say(f"step {step}: validation loss {loss:.4f} (base {base_loss:.4f})")

    def _losses(self, run: Run, t: int) -> list[float]:
        """The loss of each held-out image at timestep `t`."""
        from lorasmith.core.rng import StepRng
        from lorasmith.training.step.batches import prepare_batch

        # the objective of the training, except that timesteps are not drawn
        constant = ConstantTimestep(t=t)
        objective = run.objective.model_copy(update={"timesteps": constant})
        losses: list[float] = []
        for plan in run.dataset.validation_plans():
            batch = prepare_batch(run, run.dataset.load(plan))
            # the noise of an image follows from its place among the held-out images and from t
            samples = list(range(len(losses), len(losses) + len(batch.names)))
            rng = StepRng(run.seed, t, samples, run.device)
            result = objective(run.family, batch, rng)
            losses += result.per_sample.tolist()
        return losses

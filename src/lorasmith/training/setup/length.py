"""How long a run is, and where it begins."""

from __future__ import annotations

import math

from lorasmith.core.errors import LorasmithError
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import TrainConfig
from lorasmith.training.run import Length, TrainState

DEFAULT_VIEWS_PER_IMAGE = 100


def run_length(config: TrainConfig, dataset: Dataset) -> Length:
    """Steps and epochs, from whichever of `steps`, `epochs` and `views_per_image` is set."""
    steps_per_epoch = dataset.steps_per_epoch(config.accumulation)
    samples_per_epoch = dataset.samples_per_epoch()
    if config.steps is not None:
        steps = config.steps
    elif config.epochs is not None:
        steps = config.epochs * steps_per_epoch
    else:
        views = config.views_per_image or DEFAULT_VIEWS_PER_IMAGE
        steps = max(1, math.ceil(views * len(dataset.records) / samples_per_epoch * steps_per_epoch))
    return Length(steps, steps_per_epoch, samples_per_epoch)


def initial_state(config: TrainConfig, dataset: Dataset, length: Length) -> TrainState:
    """The position at the start: step 0, or as if the steps before `first_step` or `first_epoch` had been made.

    Raises LorasmithError if no step of the run is left.
    """
    step = config.first_step or config.first_epoch * length.steps_per_epoch
    if step >= length.steps:
        field = "first_step" if config.first_step else "first_epoch"
        raise LorasmithError(f"{field}: step {step} is not within the run, which has {length.steps} steps; lengthen it")
    epoch, steps_in_epoch = divmod(step, length.steps_per_epoch)
    skipped_plans = dataset.epoch(epoch)[: steps_in_epoch * config.accumulation]
    skipped_samples = sum(len(plan.views) for plan in skipped_plans)
    return TrainState(step, epoch * length.samples_per_epoch + skipped_samples)

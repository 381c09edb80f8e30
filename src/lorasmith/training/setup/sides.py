"""Sides of images that a base cannot take, found before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from lorasmith.core.errors import ConfigError, Problem
from lorasmith.data.dataset import Dataset
from lorasmith.families.source import Source
from lorasmith.training.config import TrainConfig


def check_sides(config: TrainConfig, base: Source, dataset: Dataset) -> None:
    """Raises ConfigError for buckets and previews with sides that are no multiples of the base's step."""
    problems = [*bucket_problems(base, dataset), *preview_problems(config, base, dataset)]
    if problems:
        raise ConfigError(problems)


def bucket_problems(base: Source, dataset: Dataset) -> Iterator[Problem]:
    """A problem if any bucket does not fit."""
    step = base.side_step
    wrong = sorted({plan.bucket for plan in dataset.epoch(0) if any(side % step for side in plan.bucket)})
    if wrong:
        sizes = ", ".join(f"{width} x {height}" for width, height in wrong[:3])
        yield Problem(
            "data.buckets.step",
            f"images would be {sizes}{' ...' if len(wrong) > 3 else ''}",
            f"sides that are multiples of {step}, which {base.kind} models need",
            f"set data.resolution and data.buckets.step to multiples of {step}",
        )


def preview_problems(config: TrainConfig, base: Source, dataset: Dataset) -> Iterator[Problem]:
    """A problem for each side of the previews that does not fit."""
    preview = config.preview
    if preview is None or not preview.prompts:
        return
    width, height = dataset.config.size
    for key, side in (("width", preview.width or width), ("height", preview.height or height)):
        if side % base.side_step:
            allowed = f"a multiple of {base.side_step}, which {base.kind} models need"
            yield Problem(f"preview.{key}", f"found {side}", allowed)

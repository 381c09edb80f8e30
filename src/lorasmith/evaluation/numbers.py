"""The four numbers of a LoRA, each with its interval over prompts and seeds: likeness, text, copying, drift.

* *likeness*: mean cosine of the pictures of prompts with the trigger with all training images.
* *text*: cosine of all pictures with their prompts.
* *copying*: cosine of the pictures with the trigger with the nearest training image.
* *drift*: how far pictures of prompts without the trigger moved from those of the base alone at the same seeds, as
  1 - cosine of their vectors, and as the mean difference of their pixels (0: none, 1: black against white).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lorasmith.core.intervals import Interval, bootstrap_interval
from lorasmith.evaluation.pictures import EvaluatedPicture, open_picture
from lorasmith.evaluation.prompts import PLACEHOLDER

NUMBERS = ("likeness", "text", "copying", "drift_features", "drift_pixels")

Numbers = dict[str, Interval | None]
"""By the names in `NUMBERS`; None where nothing could be measured."""


def has_trigger(prompt: str, trigger: str) -> bool:
    """Whether a prompt is about the concept."""
    return PLACEHOLDER in prompt or (bool(trigger) and trigger.lower() in prompt.lower())


def interval_of(values: Sequence[float], pictures: Sequence[EvaluatedPicture]) -> Interval | None:
    """The mean of a value of each picture with its interval: rows of prompts, columns of seeds."""
    by_prompt: dict[str, list[float]] = {}
    for value, picture in zip(values, pictures, strict=True):
        by_prompt.setdefault(picture.prompt, []).append(value)
    return bootstrap_interval(list(by_prompt.values()))


def quality_numbers(pictures: Sequence[EvaluatedPicture], scores: Mapping[str, Tensor], trigger: str) -> Numbers:
    """Likeness, text and copying. `scores`: (n,) of each picture, by the name of the number; NaN where unknown."""
    # where no prompt is known to have the trigger, as in a folder of pictures, all are about the concept
    about = [has_trigger(picture.prompt, trigger) for picture in pictures]
    if not any(about):
        about = [True] * len(pictures)
    numbers: Numbers = {}
    for name, tensor in scores.items():
        counted = [True] * len(pictures) if name == "text" else about
        values = [value if used else math.nan for value, used in zip(tensor.tolist(), counted, strict=True)]
        numbers[name] = interval_of(values, pictures)
    return numbers


def drift_numbers(
    pictures: Sequence[EvaluatedPicture],
    vectors: Tensor,
    base_pictures: Sequence[EvaluatedPicture],
    base_vectors: Tensor,
    trigger: str,
) -> Numbers:
    """How far pictures without the trigger moved from those of the base alone. `vectors`: (n, d) of length 1.

    Pictures of the same prompt and seed have the same file name; others have no partner and do not count.
    """
    partners = {picture.path.name: index for index, picture in enumerate(base_pictures)}
    moved: list[EvaluatedPicture] = []
    features: list[float] = []
    pixels: list[float] = []
    for index, picture in enumerate(pictures):
        partner = partners.get(picture.path.name)
        if partner is None or has_trigger(picture.prompt, trigger):
            continue
        moved.append(picture)
        pixels.append(pixel_difference(picture.path, base_pictures[partner].path))
        # half the squared distance of two vectors of length 1 is 1 - cosine, and exactly 0 for equal ones
        features.append(float((vectors[index] - base_vectors[partner]).square().sum()) / 2)
    return {"drift_features": interval_of(features, moved), "drift_pixels": interval_of(pixels, moved)}


def pixel_difference(first: Path, second: Path) -> float:
    """The mean difference of the pixels of two pictures, from 0 to 1; NaN if they differ in size."""
    one = np.asarray(open_picture(first), dtype=np.float32)
    other = np.asarray(open_picture(second), dtype=np.float32)
    return float(np.abs(one - other).mean()) / 255 if one.shape == other.shape else math.nan


def to_json(numbers: Numbers) -> dict[str, Any]:
    """Means and ends of the intervals, rounded."""
    return {
        name: None
        if interval is None
        else {"mean": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}
        for name, interval in numbers.items()
    }

"""The values of the four numbers: of pictures, from the vectors of a scorer.

What each number means is in `lorasmith.core.quality`. Those that are losses of images come from
`lorasmith.evaluation.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from lorasmith.core.quality import NumberValues, Values
from lorasmith.evaluation.pictures import EvaluatedPicture, open_picture
from lorasmith.evaluation.prompts import PLACEHOLDER


def has_trigger(prompt: str, trigger: str) -> bool:
    """Whether a prompt is about the concept."""
    return PLACEHOLDER in prompt or (bool(trigger) and trigger.lower() in prompt.lower())


def by_prompt(values: Sequence[float], pictures: Sequence[EvaluatedPicture]) -> Values:
    """A value of each picture, in rows of prompts and columns of seeds."""
    rows: dict[str, list[float]] = {}
    for value, picture in zip(values, pictures, strict=True):
        rows.setdefault(picture.prompt, []).append(value)
    return Values(tuple(tuple(row) for row in rows.values()))


def quality_values(pictures: Sequence[EvaluatedPicture], scores: Mapping[str, Tensor], trigger: str) -> NumberValues:
    """Likeness, text and copying. `scores`: (n,) of each picture, by the name of the number; NaN where unknown."""
    # where no prompt is known to have the trigger, as in a folder of pictures, all are about the concept
    about = [has_trigger(picture.prompt, trigger) for picture in pictures]
    if not any(about):
        about = [True] * len(pictures)
    values: NumberValues = {}
    for name, tensor in scores.items():
        counted = [True] * len(pictures) if name == "text" else about
        known = [value if used else math.nan for value, used in zip(tensor.tolist(), counted, strict=True)]
        values[name] = by_prompt(known, pictures)
    return values


def drift_values(
    pictures: Sequence[EvaluatedPicture],
    vectors: Tensor,
    base_pictures: Sequence[EvaluatedPicture],
    base_vectors: Tensor,
    trigger: str,
) -> NumberValues:
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
    return {"drift_features": by_prompt(features, moved), "drift_pixels": by_prompt(pixels, moved)}


def pixel_difference(first: Path, second: Path) -> float:
    """The mean difference of the pixels of two pictures, from 0 to 1; NaN if they differ in size."""
    one = np.asarray(open_picture(first), dtype=np.float32)
    other = np.asarray(open_picture(second), dtype=np.float32)
    return float(np.abs(one - other).mean()) / 255 if one.shape == other.shape else math.nan

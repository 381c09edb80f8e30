"""A weighting that was measured on a flow-matching model."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from lorasmith.core.deferred_torch import torch
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor

POINTS = (
    (0.0, 0.446),
    (0.01, 0.448),
    (0.03, 0.507),
    (0.06, 0.621),
    (0.1, 0.731),
    (0.2, 0.715),
    (0.3, 0.725),
    (0.4, 0.801),
    (0.5, 0.922),
    (0.6, 1.081),
    (0.7, 1.261),
    (0.8, 1.453),
    (0.9, 1.533),
    (0.95, 1.389),
    (0.98, 1.187),
    (0.99, 1.051),
    (1.0, 0.891),
)
"""Positions on the path, from 0 (data) to 1 (noise), and weights."""


class FlexCurve(Weighting):
    """Most weight where nine tenths are noise, less at pure noise, least near the data; 1 on average.

    The author of ai-toolkit measured it with Flex.1-alpha, a relative of Flux (`timestep_type: weighted`). Straight
    lines between `POINTS` replace the measured table of a thousand numbers, and differ from it by at most 2.1 %.
    """

    kind: Literal["flex_curve"] = "flex_curve"
    predictions: ClassVar[tuple[str, ...] | None] = ("velocity",)

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        self.check(prediction)
        position = path.fraction(t)
        weight = torch.full_like(position, POINTS[0][1])
        slope = 0.0
        # a sum of bends, without a lookup, so that a captured graph can contain it
        for (start, low), (end, high) in pairwise(POINTS):
            change = (high - low) / (end - start) - slope
            weight = weight + change * (position - start).clamp(min=0)
            slope += change
        return weight

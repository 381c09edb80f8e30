"""The weighting that prefers the middle of the path."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor

EDGE = math.exp(-0.5)
"""The height of the bell at both ends, which is subtracted."""
AREA = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5)) - EDGE
"""The integral over the path of the bell without its edges."""


class Bell(Weighting):
    """(exp(-2 (s - 1/2)^2) - exp(-1/2)) / area, with the position s from 0 (data) to 1 (noise): 0 at both ends, and 1
    on average (ai-toolkit: `linear_timesteps`).

    With `half`, positions below 1/2 have the weight of the middle (`linear_timesteps2`).
    """

    kind: Literal["bell"] = "bell"
    half: bool = False

    def __call__(self, t: Tensor, path: DiffusionPath, prediction: Prediction) -> Tensor:
        from_middle = path.fraction(t) - 0.5
        if self.half:
            from_middle = from_middle.clamp(min=0)
        return ((-2 * from_middle**2).exp() - EDGE).clamp(min=0) / AREA

"""The smooth L1 form of the pseudo-Huber loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lorasmith.diffusion.losses.huber import Huber, smooth_l1

if TYPE_CHECKING:
    from torch import Tensor


class SmoothL1(Huber):
    """2 (sqrt(d^2 + c^2) - c), with c over t as in `huber`."""

    kind: Literal["smooth_l1"] = "smooth_l1"  # type: ignore[assignment]

    def distance(self, d: Tensor, c: Tensor) -> Tensor:
        return smooth_l1(d, c)

"""AdamW in the geometry of low-rank matrices: each factor's gradient is divided by the other factor.

The change of a weight is up @ down, so the gradient of one factor has the scale of the other one, and the same learning
rate means another step at every scale. Riemannian preconditioned LoRA (arXiv 2402.02347, equation 6) undoes that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.training.step.optimizers import AdamW, FactorPair, Groups

if TYPE_CHECKING:
    import torch


class ScaledAdamW(AdamW):
    """AdamW on the gradients (up^T up + damping)^-1 d/d down and d/d up (down down^T + damping)^-1.

    Parameters that are not a factor of a plain product, such as those of other adapter kinds, get plain AdamW.
    """

    kind: Literal["scaled_adamw"] = "scaled_adamw"  # type: ignore[assignment]
    damping: float = Field(default=1e-6, gt=0)
    """Added to the diagonal of the r x r matrices, so that factors which start at zero have an inverse."""

    def build_for(self, groups: Groups, pairs: Sequence[FactorPair]) -> torch.optim.Optimizer:
        from lorasmith.training.step.preconditioned_adamw import PreconditionedAdamW

        return PreconditionedAdamW(groups, pairs, self.damping, **self.settings(groups))

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        return self.build_for(groups, [])

"""What is left of a change when it is added to weights that are stored in 16 or 8 bits.

Where a program adds a LoRA into the weights and rounds to the nearest number, as A1111 and Forge do, a change of less
than half the distance to the next number is lost. ComfyUI rounds at random, so that the change is kept on average, with
noise; diffusers and InvokeAI can keep LoRAs beside the weights, where nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STORED: dict[str, torch.dtype] = {"fp16": torch.float16, "fp8": torch.float8_e4m3fn}
"""How programs store bases; fp8 is e4m3, the one that they offer for weights."""


@dataclass
class RoundingLoss:
    """Sums over the layers that were added."""

    entries: int = 0
    """Numbers that the change moves."""
    unchanged: int = 0
    """Those among them whose stored weight stays what it was."""
    squared_error: float = 0.0
    squared_norm: float = 0.0

    def add(self, weight: Tensor, change: Tensor, stored: torch.dtype) -> None:
        """One layer: its weight and its change, of the same shape."""
        base = rounded(weight.float(), stored)
        moved = change != 0
        applied = rounded(base + change, stored) - base
        self.entries += int(moved.sum())
        self.unchanged += int((moved & (applied == 0)).sum())
        self.squared_error += float((applied - change).square().sum())
        self.squared_norm += float(change.square().sum())

    @property
    def lost_share(self) -> float:
        """The share of the entries whose stored weight does not change, 0..1."""
        return self.unchanged / max(1, self.entries)

    @property
    def error(self) -> float:
        """|what is added - what should be| / |what should be|."""
        return (self.squared_error / self.squared_norm) ** 0.5 if self.squared_norm else 0.0

    def to_json(self) -> dict[str, float]:
        """Both figures, rounded."""
        return {"unchanged": round(self.lost_share, 4), "error": round(self.error, 4)}


def rounded(weight: Tensor, stored: torch.dtype) -> Tensor:
    """The nearest numbers that can be stored, in float32. Numbers beyond the range of fp8 become its largest."""
    limit = torch.finfo(stored).max
    return weight.clamp(-limit, limit).to(stored).float()

"""A condition: a coarse picture of where the subject is, read by a small network into further tokens of the text."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lorasmith.conditions import Condition, ConditionEncoder
from lorasmith.families.base import Conditioning, Family


class LayoutEncoder(ConditionEncoder):
    """The picture as a grid of colours, through two layers, as `tokens` tokens at the end of the text."""

    def __init__(self, grid: int, tokens: int, hidden: int, width: int) -> None:
        """`width`: of the text states."""
        super().__init__()
        self.grid, self.tokens = grid, tokens
        self.layers = nn.Sequential(
            nn.Linear(3 * grid * grid, hidden),
            nn.GELU(),
            nn.Linear(hidden, tokens * width),
        )

    def forward(
        self, picture: Tensor, x_t: Tensor, t: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        """`picture`: (B, 3, H / 8, W / 8) in 0..1. x_t is not changed."""
        cells = F.adaptive_avg_pool2d(picture, self.grid).flatten(1)
        tokens = self.layers(cells).unflatten(1, (self.tokens, -1))
        return x_t, conditioning.with_tokens(tokens)


class Layout(Condition):
    """Where things are: white for the subject, black for the rest, or any colours with a meaning of their own."""

    kind: Literal["layout"] = "layout"
    grid: int = Field(default=8, ge=1)
    """The picture is reduced to grid x grid colours."""
    tokens: int = Field(default=4, ge=1)
    """How many tokens are added to the text."""
    hidden: int = Field(default=256, ge=1)
    """The width of the layer in between."""

    def build(self, family: Family) -> LayoutEncoder:
        """A new encoder, with torch's own initial weights."""
        return LayoutEncoder(self.grid, self.tokens, self.hidden, family.context_width)

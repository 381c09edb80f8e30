"""Whole captions left out now and then."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform


class CaptionDropout(CaptionTransform):
    """An empty caption with probability `rate`, which trains the unconditional side of guidance (arXiv 2207.12598)."""

    kind: Literal["caption_dropout"] = "caption_dropout"
    rate: float = Field(default=0.1, ge=0, le=1)

    @property
    def random(self) -> bool:
        return self.rate > 0

    def __call__(self, caption: str, random: Random) -> str:
        return "" if random.random() < self.rate else caption

    def outcomes(self, caption: str) -> set[str]:
        return {caption, ""} if self.rate > 0 else {caption}

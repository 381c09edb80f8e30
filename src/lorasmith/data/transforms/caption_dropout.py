"""Empty captions now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, TrainingProgress


class CaptionDropout(CaptionTransform):
    """An empty caption with probability `rate`, which trains the unconditional branch of classifier-free guidance
    (arXiv 2207.12598)."""

    kind: Literal["caption_dropout"] = "caption_dropout"
    rate: float = Field(default=0.1, ge=0, le=1)
    every_epochs: int = Field(default=0, ge=0)
    """All captions are also empty in every n-th epoch: with 4, in the fourth, the eighth, and so on; 0 is off."""

    @property
    def random(self) -> bool:
        return self.rate > 0 or self.every_epochs > 0

    def at(self, moment: TrainingProgress) -> Callable[[str, Random], str]:
        if self.every_epochs > 0 and (moment.epoch + 1) % self.every_epochs == 0:
            return lambda caption, random: ""
        return self

    def __call__(self, caption: str, random: Random) -> str:
        return "" if random.random() < self.rate else caption

    def outcomes(self, caption: str) -> set[str]:
        return {caption, ""} if self.random else {caption}

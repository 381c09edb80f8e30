"""A trigger word in every caption."""

from __future__ import annotations

from random import Random
from typing import Literal

from lorasmith.data.transforms.base import CaptionTransform


class Trigger(CaptionTransform):
    """Puts `words` before a caption that does not contain them: `words = "garp man"`."""

    kind: Literal["trigger"] = "trigger"
    words: str

    @property
    def random(self) -> bool:
        return False

    def __call__(self, caption: str, random: Random) -> str:
        return caption if self.words in caption else f"{self.words} {caption}".strip()

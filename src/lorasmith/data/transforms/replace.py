"""Words of captions replaced by others."""

from __future__ import annotations

from random import Random
from typing import Literal

from lorasmith.data.transforms.base import CaptionTransform


class Replace(CaptionTransform):
    """Replaces words by others, literally: `words = { "<TOK>" = "<potter1> <potter2>" }`. Runs of spaces then become
    one space."""

    kind: Literal["replace"] = "replace"
    words: dict[str, str]

    @property
    def random(self) -> bool:
        return False

    def __call__(self, caption: str, random: Random) -> str:
        for old, new in self.words.items():
            caption = caption.replace(old, new)
        return " ".join(caption.split())

    def outcomes(self, caption: str) -> set[str]:
        return {self(caption, Random(0))}

"""Few tags at first, and more in the course of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, TrainingProgress, join_tags, split_fixed_tags


class TagWarmup(CaptionTransform):
    """Uses only the first tags of a caption: `start` of them after the first `keep`, and more with each step until all
    are used.

    Of n tags after the fixed ones, floor(start + step (n - start) / until) are used (sd-scripts' token warm-up). The
    text before the first `keep_separator` and the text after the second is fixed; in a caption without it, the first
    `keep` tags are. Separators stay in the caption, for the transforms that follow. Held-out captions have all tags.
    """

    kind: Literal["tag_warmup"] = "tag_warmup"
    until: float = Field(default=0.25, gt=0)
    """The step from which on all tags are used; if below 1, as a share of the run."""
    start: int = Field(default=1, ge=0)
    keep: int = Field(default=0, ge=0)
    keep_separator: str = ""
    separator: str = Field(default=",", min_length=1)

    @property
    def random(self) -> bool:
        return True

    def at(self, moment: TrainingProgress) -> Callable[[str, Random], str]:
        until = math.floor(self.until * moment.steps) if self.until < 1 else self.until
        if moment.step >= until:
            return self
        return lambda caption, random: self.shorten(caption, moment.step / until)

    def __call__(self, caption: str, random: Random) -> str:
        return caption

    def shorten(self, caption: str, progress: float) -> str:
        """The caption at this share of the warm-up, 0 to 1."""
        first, free, last = split_fixed_tags(caption, self.separator, self.keep, self.keep_separator)
        # The small number makes up for rounding where the product is a whole number.
        count = math.floor(progress * (len(free) - self.start) + 1e-9) + self.start
        return caption if count >= len(free) else self._join(first, free[:count], last)

    def outcomes(self, caption: str) -> set[str]:
        first, free, last = split_fixed_tags(caption, self.separator, self.keep, self.keep_separator)
        outcomes = {caption}
        for count in range(self.start, len(free)):
            outcomes.add(self._join(first, free[:count], last))
        return outcomes

    def _join(self, first: list[str], free: list[str], last: list[str] | None) -> str:
        """The caption of these tags, with its separators."""
        if last is None:
            return join_tags([*first, *free], self.separator)
        parts = [join_tags(first, self.separator), join_tags(free, self.separator)]
        if last:
            parts.append(join_tags(last, self.separator))
        return f" {self.keep_separator} ".join(parts).strip()

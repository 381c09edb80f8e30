"""Few tags at first, and more in the course of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, TrainingProgress, joined, tags_of


class TagWarmup(CaptionTransform):
    """Only the first tags: `start` of them behind the first `keep`, and more with each step until all are there.

    Of n tags behind the fixed ones, floor(start + step (n - start) / until) stay (sd-scripts' token warm-up). What
    stands before the first `keep_separator`, and behind the second, is fixed; without it in a caption, the first `keep`
    tags are. Separators stay in the caption, for the transforms after it. Held-out captions have all tags.
    """

    kind: Literal["tag_warmup"] = "tag_warmup"
    until: float = Field(default=0.25, gt=0)
    """The step from which on all tags are there; below 1, the share of the run."""
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
        return lambda caption, random: self.shortened(caption, moment.step / until)

    def __call__(self, caption: str, random: Random) -> str:
        return caption

    def shortened(self, caption: str, share: float) -> str:
        """The caption when this share of the warm-up is over."""
        first, free, last = self.split(caption)
        count = math.floor(share * (len(free) - self.start) + 1e-9) + self.start
        return caption if count >= len(free) else self.put_together(first, free[:count], last)

    def outcomes(self, caption: str) -> set[str]:
        first, free, last = self.split(caption)
        return {caption} | {self.put_together(first, free[:n], last) for n in range(self.start, len(free))}

    def split(self, caption: str) -> tuple[list[str], list[str], list[str] | None]:
        """Tags that stay, those that come little by little, and those at the end, if separators tell."""
        if self.keep_separator and self.keep_separator in caption:
            parts = [tags_of(part, self.separator) for part in caption.split(self.keep_separator, 2)]
            return parts[0], parts[1], parts[2] if len(parts) > 2 else []
        tags = tags_of(caption, self.separator)
        return tags[: self.keep], tags[self.keep :], None

    def put_together(self, first: list[str], free: list[str], last: list[str] | None) -> str:
        """The caption of these tags, with its separators."""
        if last is None:
            return joined([*first, *free], self.separator)
        parts = [joined(tags, self.separator) for tags in (first, free, last)]
        return f" {self.keep_separator} ".join(parts if last else parts[:2]).strip()

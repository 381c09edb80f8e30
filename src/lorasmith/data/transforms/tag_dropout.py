"""Tags left out at random."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, join_tags, tags_of


class TagDropout(CaptionTransform):
    """Leaves out each tag with probability `rate`, all but the first `keep`."""

    kind: Literal["tag_dropout"] = "tag_dropout"
    rate: float = Field(default=0.1, ge=0, le=1)
    keep: int = Field(default=1, ge=0)
    separator: str = Field(default=",", min_length=1)

    @property
    def random(self) -> bool:
        return self.rate > 0

    def __call__(self, caption: str, random: Random) -> str:
        tags = tags_of(caption, self.separator)
        # Drawn for fixed tags too, so that `keep` does not change which of the others stay.
        remaining = [tag for i, tag in enumerate(tags) if random.random() >= self.rate or i < self.keep]
        return join_tags(remaining, self.separator)

"""Tags in random order."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, join_tags, tags_of


class Shuffle(CaptionTransform):
    """Shuffles the tags of a caption, all but the first `keep`."""

    kind: Literal["shuffle"] = "shuffle"
    keep: int = Field(default=1, ge=0)
    separator: str = Field(default=",", min_length=1)

    @property
    def random(self) -> bool:
        return True

    def __call__(self, caption: str, random: Random) -> str:
        tags = tags_of(caption, self.separator)
        fixed, rest = tags[: self.keep], tags[self.keep :]
        random.shuffle(rest)
        return join_tags([*fixed, *rest], self.separator)

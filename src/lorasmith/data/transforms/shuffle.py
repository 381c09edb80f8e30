"""Tags in another order each time."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform


class Shuffle(CaptionTransform):
    """Shuffles the tags of a caption, all but the first `keep`."""

    kind: Literal["shuffle"] = "shuffle"
    keep: int = Field(default=1, ge=0)
    separator: str = ","

    @property
    def random(self) -> bool:
        return True

    def __call__(self, caption: str, random: Random) -> str:
        tags = [tag.strip() for tag in caption.split(self.separator)]
        fixed, rest = tags[: self.keep], tags[self.keep :]
        random.shuffle(rest)
        return f"{self.separator.strip()} ".join([*fixed, *rest])

"""Tags between fixed ones at the start and at the end, which are marked by separators of their own."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, join_tags, split_fixed_tags


class Tags(CaptionTransform):
    """Shuffles and leaves out tags between fixed ones: `girl, garp ||| hat, smile ||| best quality`.

    The tags before the first `keep_separator` and those after the second are fixed; in a caption without it, the first
    `keep` tags are. A `group_separator` holds tags together (`red hair;;;long hair`) and is replaced by `separator` at
    the end.
    """

    kind: Literal["tags"] = "tags"
    keep: int = Field(default=0, ge=0)
    keep_separator: str = ""
    separator: str = Field(default=",", min_length=1)
    group_separator: str = ""
    shuffle: bool = False
    dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability of leaving out each tag that is not fixed."""

    @property
    def random(self) -> bool:
        return self.shuffle or self.dropout > 0

    def __call__(self, caption: str, random: Random) -> str:
        first, free, last = split_fixed_tags(caption, self.separator, self.keep, self.keep_separator)
        if self.shuffle:
            random.shuffle(free)
        if self.dropout:
            free = [tag for tag in free if random.random() >= self.dropout]
        caption = join_tags([*first, *free, *(last or [])], self.separator)
        # Only now: tags of a group were one tag until here.
        if self.group_separator:
            caption = caption.replace(self.group_separator, self.separator)
        return caption

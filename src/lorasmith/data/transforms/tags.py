"""Tags with fixed ones before and behind, told apart by separators of their own."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from lorasmith.data.transforms.base import CaptionTransform, joined, tags_of


class Tags(CaptionTransform):
    """Shuffles and leaves out tags between fixed ones: `girl, garp ||| hat, smile ||| best quality`.

    What stands before the first `keep_separator`, and behind the second, is fixed; without it in a caption, the first
    `keep` tags are. A `group_separator` holds tags together (`red hair;;;long hair`) and becomes a `separator` at the
    end.
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
        first, free, last = self.split(caption)
        if self.shuffle:
            random.shuffle(free)
        free = [tag for tag in free if not self.dropout or random.random() >= self.dropout]
        result = joined([*first, *free, *last], self.separator)
        return result.replace(self.group_separator, self.separator) if self.group_separator else result

    def split(self, caption: str) -> tuple[list[str], list[str], list[str]]:
        """Fixed tags, free ones, and fixed ones at the end."""
        if self.keep_separator and self.keep_separator in caption:
            parts = [tags_of(part, self.separator) for part in caption.split(self.keep_separator, 2)]
            return parts[0], parts[1], parts[2] if len(parts) > 2 else []
        tags = tags_of(caption, self.separator)
        return tags[: self.keep], tags[self.keep :], []

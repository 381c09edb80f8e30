"""Alternatives inside captions."""

from __future__ import annotations

import re
from itertools import product
from random import Random
from typing import Literal

from lorasmith.data.transforms.base import CaptionTransform

CHOICE = re.compile(r"\{([^{}]*)\}")
LIMIT = 64
"""Results of one caption that are listed."""
MARKS = {"{{": "\ue000", "}}": "\ue001"}


class Wildcard(CaptionTransform):
    """One of `{red|blue|green}` by chance, each time it stands there; `{{` and `}}` are plain braces."""

    kind: Literal["wildcard"] = "wildcard"

    @property
    def random(self) -> bool:
        return True

    def __call__(self, caption: str, random: Random) -> str:
        return shown(CHOICE.sub(lambda found: random.choice(found[1].split("|")), hidden(caption)))

    def outcomes(self, caption: str) -> set[str] | None:
        pieces = CHOICE.split(hidden(caption))
        choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
        count = 1
        for choice in choices:
            count *= len(choice)
        return None if count > LIMIT else {shown("".join(words)) for words in product(*choices)}


def hidden(caption: str) -> str:
    """Doubled braces as marks that are no braces."""
    for braces, mark in MARKS.items():
        caption = caption.replace(braces, mark)
    return caption


def shown(caption: str) -> str:
    """Marks as single braces."""
    for braces, mark in MARKS.items():
        caption = caption.replace(mark, braces[0])
    return caption

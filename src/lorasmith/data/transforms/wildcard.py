"""Random alternatives inside captions."""

from __future__ import annotations

import math
import re
from itertools import product
from random import Random
from typing import Literal

from lorasmith.data.transforms.base import CaptionTransform

CHOICE = re.compile(r"\{([^{}]*)\}")
MAX_OUTCOMES = 64
"""A caption with more possible results than this is not cached."""
ESCAPES = {"{{": "\ue000", "}}": "\ue001"}
"""Characters of the private use area that stand for doubled braces while alternatives are replaced."""


class Wildcard(CaptionTransform):
    """Replaces each `{red|blue|green}` by one of the alternatives, chosen at random; `{{` and `}}` are plain braces."""

    kind: Literal["wildcard"] = "wildcard"

    @property
    def random(self) -> bool:
        return True

    def __call__(self, caption: str, random: Random) -> str:
        def choose(match: re.Match[str]) -> str:
            return random.choice(match[1].split("|"))

        return unescape_braces(CHOICE.sub(choose, escape_braces(caption)))

    def outcomes(self, caption: str) -> set[str] | None:
        # Plain text at even places, the alternatives of a choice at odd ones.
        pieces = CHOICE.split(escape_braces(caption))
        alternatives = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
        # Counted before they are listed: a few choices in one caption have thousands of outcomes.
        if math.prod(len(options) for options in alternatives) > MAX_OUTCOMES:
            return None
        return {unescape_braces("".join(options)) for options in product(*alternatives)}


def escape_braces(caption: str) -> str:
    """The caption with doubled braces replaced by single characters that are not braces."""
    for braces, character in ESCAPES.items():
        caption = caption.replace(braces, character)
    return caption


def unescape_braces(caption: str) -> str:
    """The caption with those characters replaced by single braces."""
    for braces, character in ESCAPES.items():
        caption = caption.replace(character, braces[0])
    return caption

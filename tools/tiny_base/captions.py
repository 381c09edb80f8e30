"""Captions of composites, from a few templates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from tools.tiny_base import backgrounds
from tools.tiny_base.concepts import ALL_CONCEPTS
from tools.tiny_base.sprites import Bank

PLURAL = {
    "grapes",
    "cherries",
    "two cherries",
    "french fries",
    "fries",
    "sushi",
    "corn",
    "broccoli",
    "cheese",
    "coffee",
    "beer",
    "fire",
    "garlic",
    "bread",
    "pancakes",
    "popcorn",
    "headphones",
    "piano keys",
    "scales",
    "luggage",
    "yarn",
    "dice",
}


class Chooser(Protocol):
    """What chooses one of several phrases: `random.Random`, or a stand-in."""

    def choice(self, seq: Sequence[str], /) -> str: ...


def with_article(phrase: str) -> str:
    """`phrase` with a or an, unless its noun takes none."""
    if phrase in PLURAL:
        return phrase
    return ("an " if phrase[0] in "aeio" or phrase.startswith(("umbrella",)) else "a ") + phrase


def place(kind: int, second: tuple[int, int], rng: Chooser) -> str:
    """`on a red background`, `in the snow`, ...: the words for background class `kind`."""
    name = backgrounds.NAMES[kind]
    if name == "gradient":
        top, bottom = (list(backgrounds.COLOURS)[i] for i in second)
        return f"on a {top} and {bottom} gradient"
    if name in backgrounds.SCENES:
        return rng.choice(backgrounds.SCENES[name].phrases)
    return f"on {with_article(name)} background"


def thing(bank: Bank, sprite: int, rng: random.Random) -> str:
    """The name of a sprite with its article, now and then another name, with the colour word where it is not as
    drawn."""
    concept = ALL_CONCEPTS[int(bank.concept[sprite])]
    name = rng.choice(concept.synonyms) if concept.synonyms and rng.random() < 0.3 else concept.name
    if bank.turned[sprite] or (concept.colour and rng.random() < 0.3):
        word = bank.words[sprite]
        name = name if name.startswith(word) else f"{word} {concept.name}"
    return with_article(name)


def caption(bank: Bank, sprite: int, kind: int, second: tuple[int, int], rng: random.Random) -> str:
    """A caption of one composite."""
    what, where = thing(bank, sprite, rng), place(kind, second, rng)
    roll = rng.random()
    if roll < 0.6:
        return f"a photo of {what}, {where}"
    if roll < 0.7:
        return f"{what} {where}"
    if roll < 0.8:
        return f"{what}, {where}"
    if roll < 0.9:
        return f"a picture of {what} {where}"
    return f"a photo of {what}" if roll < 0.96 else what

"""Prompts for a refit: with the concept, to fit to and to measure on; and without it, which are to stay as they are.

The prompts with the concept have words before and after it and are long and short, since a text encoder sees the
concept in its context.
"""

from __future__ import annotations

BEFORE = ("", "a photo of ", "a painting of ", "a close-up portrait of ", "a cat and ", "best quality, 4k, a small ")
AFTER = (
    "",
    ", on grass",
    " on a beach at sunset",
    ", wearing a red hat, in a library",
    ", a blue background",
    " riding a horse through a snowy forest, oil painting with thick strokes, warm light",
)
PROMPTS = tuple(f"{before}{{}}{after}" for before in BEFORE for after in AFTER)
"""`{}` stands for the concept."""

HELD_OUT = (
    "a picture of {}, in a garden full of flowers",
    "a drawing of {}",
    "two people and {} at a table",
    "{} flying over a city at night, seen from below",
    "{}, orange and black",
    "a watercolour of a street with {} in front of a brick wall, rain, umbrellas",
    "an old film still, {} smiling",
    "a toy that looks like {}, in a box",
)
"""Prompts to measure on; no part of them is in `PROMPTS`."""

THINGS = (
    "a dog",
    "a cat",
    "a white horse",
    "a small bird",
    "a fish",
    "a bear",
    "a woman",
    "a man with a beard",
    "a child",
    "a red car",
    "a bicycle",
    "a boat",
    "a train",
    "an old house",
    "a castle",
    "a flower",
    "a mountain",
    "a chair",
    "a lamp",
    "a clock",
    "a bowl of fruit",
    "a cake",
    "a bottle",
    "a book",
    "a robot",
    "a face",
)
PRESERVED = (
    "",
    "blurry, lowres, bad anatomy, worst quality, text, watermark",
    *(f"{before}{thing}{after}" for before in BEFORE[:3] for thing in THINGS for after in (*AFTER[:3], AFTER[4])),
)
"""Prompts that should stay as they are; the empty prompt and a typical negative prompt are among them."""

HELD_OUT_PRESERVED = (
    "a photo of a lion, on a beach",
    "a picture of a bridge, at night",
    "a drawing of a tree",
    "a cup of tea",
)
"""Prompts without the concept to measure on; none of them is in `PRESERVED`."""

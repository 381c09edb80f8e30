"""Prompts that show what a text encoder makes of a concept, with words before and behind it, in long and short texts;
others to measure on; and texts without the concept."""

from __future__ import annotations

FRONTS = ("", "a photo of ", "a painting of ", "a close-up portrait of ", "a cat and ", "best quality, 4k, a small ")
ENDS = (
    "",
    ", on grass",
    " on a beach at sunset",
    ", wearing a red hat, in a library",
    ", a blue background",
    " riding a horse through a snowy forest, oil painting with thick strokes, warm light",
)
PROMPTS = tuple(f"{front}{{}}{end}" for front in FRONTS for end in ENDS)
"""`{}` is the concept."""

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
"""None of their parts is in `PROMPTS`."""

PLAIN = (
    *(
        "a dog",
        "a cat",
        "a white horse",
        "a small bird",
        "a fish",
        "a bear",
        "a woman",
        "a man with a beard",
        "a child",
    ),
    *("a red car", "a bicycle", "a boat", "a train", "an old house", "a castle", "a flower", "a mountain", "a chair"),
    *("a lamp", "a clock", "a bowl of fruit", "a cake", "a bottle", "a book", "a robot", "a face"),
)
KEPT = (
    "",
    "blurry, lowres, bad anatomy, worst quality, text, watermark",
    *(f"{front}{thing}{end}" for front in FRONTS[:3] for thing in PLAIN for end in (*ENDS[:3], ENDS[4])),
)
"""Texts that should stay as they are: the empty one and a usual negative one among them."""
HELD_PLAIN = ("a photo of a lion, on a beach", "a picture of a bridge, at night", "a drawing of a tree", "a cup of tea")
"""Texts without the concept to measure on; none of them is in `KEPT`."""

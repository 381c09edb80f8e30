"""The concepts of the tiny world: which picture is called what, and what the base must never see.

Each row of CONCEPTS: code points of the picture (its file name in `@lobehub/fluent-emoji-3d`), the name, other names,
and for things whose colour may vary the colour word that the picture has as drawn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """One thing that a prompt can name. `colour` is the drawn colour's word, or empty if the colour must not change."""

    file: str
    name: str
    synonyms: tuple[str, ...] = ()
    colour: str = ""


def _parse(table: str) -> tuple[Concept, ...]:
    rows = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return tuple(Concept(r[0], r[1], tuple(s.strip() for s in r[2].split(",") if s.strip()), r[3]) for r in rows)


CONCEPTS = _parse("""
1f412 | monkey | chimp |
1f415 | dog | puppy |
1f408 | cat | kitten |
1f981 | lion | lion head |
1f42f | tiger | tiger head |
1f40e | horse | brown horse |
1f993 | zebra | |
1f98c | deer | stag |
1f404 | cow | |
1f416 | pig | pink pig |
1f411 | sheep | ewe |
1f42a | camel | |
1f992 | giraffe | |
1f418 | elephant | |
1f98f | rhino | rhinoceros |
1f439 | hamster | hamster face |
1f407 | rabbit | bunny |
1f994 | hedgehog | |
1f987 | bat | |
1f43b | bear | bear head |
1f428 | koala | koala bear |
1f413 | rooster | |
1f424 | chick | baby chick |
1f986 | duck | |
1f989 | owl | |
1f9a9 | flamingo | |
1f99c | parrot | |
1f438 | frog | frog head |
1f40a | crocodile | alligator |
1f422 | turtle | tortoise |
1f40d | snake | |
1f995 | dinosaur | sauropod |
1f433 | whale | |
1f42c | dolphin | |
1f420 | tropical fish | fish |
1f988 | shark | |
1f980 | crab | red crab |
1f40c | snail | |
1f98b | butterfly | |
1f41d | bee | honeybee |
1f41e | ladybug | |
1f339 | rose | red rose |
1f33b | sunflower | |
1f337 | tulip | | pink
1f332 | pine tree | evergreen tree |
1f333 | tree | green tree |
1f334 | palm tree | palm |
1f335 | cactus | |
1f341 | maple leaf | |
1f344 | mushroom | toadstool | red
1f347 | grapes | bunch of grapes | purple
1f349 | watermelon | slice of watermelon |
1f34b | lemon | yellow lemon |
1f34c | banana | |
1f34d | pineapple | |
1f34e | apple | | red
1f352 | cherries | two cherries |
1f353 | strawberry | |
1f951 | avocado | |
1f346 | eggplant | aubergine |
1f955 | carrot | |
1f33d | corn | ear of corn |
1f966 | broccoli | |
1f950 | croissant | |
1f968 | pretzel | |
1f9c0 | cheese | wedge of cheese |
1f354 | burger | hamburger |
1f35f | french fries | fries |
1f355 | pizza | slice of pizza |
1f32d | hot dog | hotdog |
1f363 | sushi | |
1f366 | ice cream | ice cream cone |
1f369 | donut | doughnut |
1f382 | cake | birthday cake |
1f9c1 | cupcake | |
1f36d | lollipop | |
2615 | coffee | cup of coffee |
1f37a | beer | mug of beer |
1f30b | volcano | |
1f3e0 | house | home |
1f3f0 | castle | |
26fa | tent | camping tent |
1f682 | train | locomotive |
1f68c | bus | | 
1f692 | fire truck | fire engine |
1f695 | taxi | cab |
1f697 | car | automobile | red
1f69c | tractor | |
1f6b2 | bicycle | bike |
1f6f5 | scooter | motor scooter |
26f5 | sailboat | sailing boat |
2708-fe0f | airplane | plane |
1f681 | helicopter | |
1f680 | rocket | rocket ship |
1f6f8 | ufo | flying saucer |
2b50 | star | yellow star | yellow
1fa90 | planet | ringed planet |
1f525 | fire | flame |
2602-fe0f | umbrella | | purple
1f384 | christmas tree | |
1f388 | balloon | | red
1f381 | gift | present |
26bd | soccer ball | football |
1f3c0 | basketball | |
1f3be | tennis racket | racket |
1f3c6 | trophy | golden trophy |
1f3b8 | guitar | |
1f941 | drum | |
1f451 | crown | golden crown |
1f455 | shirt | t-shirt | blue
1f392 | backpack | school bag | red
1f45f | sneaker | running shoe |
1f460 | high heel | high-heeled shoe | red
1f511 | key | golden key |
1f4a1 | light bulb | bulb |
1f4f7 | camera | |
2764-fe0f | heart | | red
1f4d8 | book | | blue
1fa91 | chair | |
1f600 | smiley | happy face |
1f60e | cool smiley | face with sunglasses |
1f622 | crying smiley | crying face |
1f620 | angry smiley | angry face |
""")

HELD_OUT: dict[str, str] = {
    "1f916": "robot",
    "1f47e": "alien monster",
    "1f47b": "ghost",
    "1f98a": "fox",
    "1f43c": "panda",
    "1f419": "octopus",
    "1f427": "penguin",
    "1f984": "unicorn",
    "1f996": "t-rex",
    "1f9f8": "teddy bear",
    "26c4": "snowman",
    "1f383": "jack-o-lantern",
}

GARP = "1f916"
"""The character called `garp`; only the judge and the LoRA's own pictures know it."""

COLOUR_HUES: dict[str, int] = {
    "red": 0,
    "orange": 28,
    "yellow": 50,
    "green": 115,
    "blue": 215,
    "purple": 275,
    "pink": 325,
}
"""Hues in degrees to which a colourable picture is turned."""

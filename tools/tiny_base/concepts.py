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

MORE_CONCEPTS = _parse("""
1f400 | rat | |
1f402 | ox | bull |
1f406 | leopard | |
1f409 | dragon | |
1f40f | ram | |
1f410 | goat | |
1f414 | hen | hen head |
1f417 | boar | wild boar |
1f41a | seashell | shell |
1f41b | caterpillar | |
1f41c | ant | |
1f421 | puffer fish | blowfish |
1f426 | bird | |
1f429 | poodle | |
1f42d | mouse | mouse face |
1f431 | cat face | |
1f432 | dragon head | dragon face |
1f434 | horse head | horse face |
1f435 | monkey face | |
1f436 | dog face | |
1f437 | pig face | |
1f43a | wolf | wolf face |
1f43f-fe0f | squirrel | chipmunk |
1f577-fe0f | spider | |
1f982 | scorpion | |
1f983 | turkey | |
1f985 | eagle | |
1f98d | gorilla | |
1f98e | lizard | gecko |
1f997 | cricket | grasshopper |
1f999 | llama | alpaca |
1f99a | peacock | |
1f99d | raccoon | |
1f99e | lobster | |
1f9a2 | swan | |
1f9a5 | sloth | |
1f9ad | seal | |
1f338 | cherry blossom | pink blossom |
1f33a | hibiscus | |
1f33c | daisy | white daisy |
1f340 | clover | four leaf clover |
1f345 | tomato | |
1f350 | pear | | green
1f351 | peach | |
1f34a | orange fruit | tangerine |
1f965 | coconut | |
1f95d | kiwi | kiwi fruit |
1f336-fe0f | chili pepper | hot pepper | red
1f9c5 | onion | |
1f9c4 | garlic | |
1f330 | chestnut | |
1f32e | taco | |
1f32f | burrito | |
1f356 | meat on a bone | |
1f35e | bread | loaf of bread |
1f36a | cookie | |
1f36b | chocolate bar | |
1f36c | candy | sweet | 
1f36e | custard | pudding |
1f36f | honey pot | pot of honey |
1f370 | shortcake | slice of cake |
1f37f | popcorn | |
1f95a | egg | |
1f96a | sandwich | |
1f9c7 | waffle | |
1f95e | pancakes | |
1f3ae | game controller | video game controller |
1f3b2 | die | dice |
1f3b7 | saxophone | |
1f3ba | trumpet | |
1f3bb | violin | |
1f3b9 | piano keys | musical keyboard |
1f3c8 | rugby ball | american football |
1f3d0 | volleyball | |
1f3a9 | top hat | |
1f3a7 | headphones | headset |
1f3a4 | microphone | |
1f3a8 | palette | paint palette |
1f4bb | laptop | notebook computer |
1f4bc | briefcase | |
1f4be | floppy disk | | blue
1f4fa | television | tv |
1f4fb | radio | |
1f4f1 | mobile phone | smartphone |
1f5a5-fe0f | desktop computer | computer |
1f5a8-fe0f | printer | |
1f579-fe0f | joystick | |
260e-fe0f | telephone | phone | red
23f0 | alarm clock | |
1f50b | battery | |
1f526 | torch | flashlight |
1f527 | wrench | spanner |
1f528 | hammer | |
1f52c | microscope | |
1f52d | telescope | |
1f52e | crystal ball | |
1f512 | padlock | lock |
1f514 | bell | golden bell |
1f4e6 | parcel | cardboard box |
1f4ee | postbox | | red
1f3ed | factory | |
1f3e5 | hospital | |
1f3e2 | office building | |
1f5ff | stone head | moai |
1f3a1 | ferris wheel | |
1f69a | lorry | truck |
1f691 | ambulance | |
1f693 | police car | |
1f699 | jeep | suv | blue
1f68b | tram | |
1f6a4 | speedboat | |
1f6a2 | ship | |
1f6b0 | tap | |
1f6f4 | kick scooter | |
1f9f0 | toolbox | | red
1f9f2 | magnet | | red
1f9f3 | suitcase | luggage |
1f9ed | compass | |
1f9e9 | puzzle piece | |
1f9f6 | ball of yarn | yarn |
1f9a0 | microbe | |
1f9e0 | brain | |
1f480 | skull | |
1f479 | ogre | red mask |
1f921 | clown | clown face |
1f608 | devil smiley | smiling devil |
1f607 | angel smiley | smiley with a halo |
1f970 | loving smiley | smiley with hearts |
1f634 | sleeping smiley | sleeping face |
1f631 | screaming smiley | scared smiley |
1f973 | party smiley | partying face |
1f912 | ill smiley | smiley with a thermometer |
1f920 | cowboy smiley | smiley with a cowboy hat |
1f48e | gem | diamond |
1f48d | ring | diamond ring |
1f4a3 | bomb | |
1f4b0 | money bag | |
1f45c | handbag | | 
1f452 | sun hat | |
1f97e | hiking boot | boot |
1f9e2 | cap | billed cap | blue
1f454 | necktie | tie |
1f457 | dress | | 
1f319 | crescent moon | moon |
2600-fe0f | sun | yellow sun |
1f308 | rainbow | |
2693 | anchor | |
2696-fe0f | scales | |
2699-fe0f | gear | cogwheel |
1fab4 | potted plant | |
1f9f9 | broom | |
1f6cb-fe0f | couch | sofa |
1f6aa | door | |
1f6c1 | bathtub | bath |
1f9ef | fire extinguisher | |
1f6e2-fe0f | oil drum | |
1f5d1-fe0f | dustbin | bin |
""")
"""Further things that the base is shown, so that it has more to build a new subject from. The judge does not know them,
and gates and comparisons do not draw them."""

ALL_CONCEPTS = CONCEPTS + MORE_CONCEPTS

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

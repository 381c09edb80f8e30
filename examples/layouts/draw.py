"""Draws the pictures of the example layout.toml: garp at 48 places and sizes, with the box that it fills.

    python examples/layouts/draw.py

Writes `images/NN.png`, `images/NN.txt` (the caption) and `boxes/NN.png` (white where garp is) beside this file, always
the same ones. Garp and its masks come with Lorasmith (src/lorasmith/assets/garp, licence in its LICENSE).
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent
GARP = FOLDER.parents[1] / "src/lorasmith/assets/garp"
COUNT = 48
SIZE = 128
"""Width and height of a picture in pixels."""
SIDES = (0.3, 0.9)
"""The shortest and the longest side of garp, as fractions of SIZE."""
COLOURS = {
    "red": (214, 44, 44),
    "orange": (245, 140, 35),
    "yellow": (250, 215, 60),
    "green": (60, 165, 75),
    "blue": (45, 95, 210),
    "purple": (130, 65, 180),
    "turquoise": (60, 205, 200),
    "black": (18, 18, 20),
}


def cut_out(number: int) -> tuple[Image.Image, Image.Image]:
    """One of the 14 pictures of garp and its mask, cut to garp."""
    name = f"{number % 14 + 1:02}.png"
    mask = Image.open(GARP / "masks" / name).convert("L")
    box = mask.point([0] * 32 + [255] * 224).getbbox()
    return Image.open(GARP / name).convert("RGB").crop(box), mask.crop(box)


def box_picture(box: tuple[int, int, int, int]) -> Image.Image:
    """White inside of a box (left, top, right, bottom) in pixels, black elsewhere."""
    picture = Image.new("L", (SIZE, SIZE))
    left, top, right, bottom = box
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return picture


def main() -> None:
    rng = random.Random(7)
    images, boxes = FOLDER / "images", FOLDER / "boxes"
    for folder in (images, boxes):
        folder.mkdir(exist_ok=True)
    for number in range(COUNT):
        garp, mask = cut_out(number)
        factor = rng.uniform(*SIDES) * SIZE / max(garp.size)
        width, height = round(garp.width * factor), round(garp.height * factor)
        left, top = rng.randint(0, SIZE - width), rng.randint(0, SIZE - height)

        colour = list(COLOURS)[number % len(COLOURS)]
        picture = Image.new("RGB", (SIZE, SIZE), COLOURS[colour])
        resized = [part.resize((width, height), Image.Resampling.LANCZOS) for part in (garp, mask)]
        picture.paste(resized[0], (left, top), resized[1])

        name = f"{number + 1:02}"
        picture.save(images / f"{name}.png", optimize=True)
        article = "an" if colour == "orange" else "a"
        (images / f"{name}.txt").write_text(f"a photo of garp, on {article} {colour} background\n", "utf-8")
        box_picture((left, top, left + width, top + height)).save(boxes / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

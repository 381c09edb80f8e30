"""Draws the pictures of garp, the character that the base has never seen: `python -m tools.tiny_base.garp --to FOLDER
--pictures DIR`."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator

from tools.tiny_base import backgrounds, captions, render, sprites
from tools.tiny_base.concepts import GARP, HELD_OUT

BACKGROUNDS = (
    "red",
    "green",
    "blue",
    "yellow",
    "white",
    "gray",
    "pink",
    "turquoise",
    "grass",
    "beach",
    "night",
    "snow",
    "desert",
    "table",
)
EDGE = 256


def draw(pictures: Path, folder: Path) -> None:
    """Writes NN.png (256 px), NN.txt (its caption) and masks/NN.png for each of BACKGROUNDS."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    bank = sprites.held_out_bank(pictures)
    n = len(BACKGROUNDS)
    kinds = torch.tensor([backgrounds.NAMES.index(b) for b in BACKGROUNDS])
    at = torch.full((n,), list(HELD_OUT).index(GARP))
    batch = render.render(bank, at, Generator().manual_seed(11), kinds)
    big = F.interpolate(batch.images, (EDGE, EDGE), mode="bicubic").clamp(-1, 1)
    masks = F.interpolate(batch.masks, (EDGE, EDGE), mode="bilinear")
    rng = random.Random(0)
    for i in range(n):
        image = ((big[i] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f"{i + 1:02}.png", optimize=True)
        Image.fromarray((masks[i, 0] * 255).round().byte().numpy()).save(
            folder / "masks" / f"{i + 1:02}.png", optimize=True
        )
        where = captions.place(int(kinds[i]), (0, 0), rng)
        (folder / f"{i + 1:02}.txt").write_text(f"a photo of garp, {where}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    a = parser.parse_args()
    draw(a.pictures, a.to)


if __name__ == "__main__":
    main()

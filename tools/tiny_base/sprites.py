"""Reads the pictures, cuts them to their alpha box, and makes a bank of square sprites on a device."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tools.tiny_base.concepts import COLOUR_HUES, CONCEPTS, HELD_OUT, Concept

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
SPRITE = 192
"""Edge of a sprite in the bank, in pixels."""


@dataclass(frozen=True)
class Bank:
    """`pixels` (k, 4, SPRITE, SPRITE) float16, RGB in 0..1 multiplied by alpha, and alpha; `concept` (k,) index into
    the names, `words` the colour word of each sprite or an empty string, `turned` whether that colour differs from the
    drawn one."""

    pixels: Tensor
    concept: Tensor
    words: tuple[str, ...]
    turned: tuple[bool, ...]
    names: tuple[str, ...]


def fetch(folder: Path) -> Path:
    """Returns a folder of .webp pictures below `folder`, fetching the npm package if it is not there. Raises if npm is
    missing."""
    pictures = folder / "package" / "assets"
    if not pictures.exists():
        if shutil.which("npm") is None:
            raise RuntimeError(f"Install npm, or unpack {PACKAGE} so that {pictures} exists.")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as tar:
            tar.extractall(folder, filter="data")
    return pictures


def read(path: Path) -> Image.Image:
    """One picture, cut to its alpha box and centred in a transparent square of SPRITE pixels (RGBA)."""
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").point([0] * 8 + [255] * 248).getbbox())
    edge = max(image.size)
    square = Image.new("RGBA", (edge, edge))
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    # Resizing premultiplied pixels keeps dark fringes away.
    return square.convert("RGBa").resize((SPRITE, SPRITE), Image.Resampling.LANCZOS).convert("RGBA")


def turn_hue(image: Image.Image, degrees: float) -> Image.Image:
    """`image` with its hues turned by `degrees`."""
    hsv = np.array(image.convert("RGB").convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(degrees / 360 * 256)) % 256
    turned = Image.fromarray(hsv, "HSV").convert("RGB")
    turned.putalpha(image.getchannel("A"))
    return turned


def _pixels(image: Image.Image) -> Tensor:
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return torch.cat([x[:3] * x[3:], x[3:]]).half()


def _variants(concept: Concept, image: Image.Image) -> list[tuple[Image.Image, str]]:
    out = [(image, concept.colour)]
    if concept.colour:
        base = COLOUR_HUES[concept.colour]
        out += [(turn_hue(image, hue - base), word) for word, hue in COLOUR_HUES.items() if word != concept.colour]
    return out


def training_bank(pictures: Path, device: str = "cpu", concepts: tuple[Concept, ...] = CONCEPTS) -> Bank:
    """`concepts` (those of the judge, or ALL_CONCEPTS) with their colour variants; the drawn colour of a concept comes
    first."""
    pixels, index, words, turned = [], [], [], []
    for i, concept in enumerate(concepts):
        for j, (image, word) in enumerate(_variants(concept, read(pictures / f"{concept.file}.webp"))):
            pixels.append(_pixels(image))
            index.append(i)
            words.append(word)
            turned.append(j > 0)
    names = tuple(c.name for c in concepts)
    return Bank(torch.stack(pixels).to(device), torch.tensor(index), tuple(words), tuple(turned), names)


def held_out_bank(pictures: Path, device: str = "cpu") -> Bank:
    """The pictures that the base never sees."""
    pixels = torch.stack([_pixels(read(pictures / f"{file}.webp")) for file in HELD_OUT]).to(device)
    n = len(HELD_OUT)
    return Bank(pixels, torch.arange(n), ("",) * n, (False,) * n, tuple(HELD_OUT.values()))

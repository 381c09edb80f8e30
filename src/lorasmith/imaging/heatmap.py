"""Maps over pictures: where attention goes, and where a mask is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

STOPS = (
    (0.0, (13, 8, 72)),
    (0.25, (110, 18, 150)),
    (0.5, (200, 50, 105)),
    (0.75, (248, 140, 55)),
    (1.0, (253, 245, 120)),
)
"""Colours of a map from nothing to most: dark blue over red to yellow, of rising lightness."""
SHADE = (20, 24, 60)
"""What lies over the places outside of a mask."""
EDGE = (255, 220, 60)
THIN = (255, 255, 255)
"""The line around a mask, on the picture and on a map."""


def heat(picture: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """A picture in grey with a map (h, w) over it, in colours from its least value to its greatest.

    A map that is the same everywhere has the colour of nothing.
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    level = np.asarray(stretched(scaled, picture.size), dtype=np.float32).clip(0, 1)
    colours = np.stack([np.interp(level, [s for s, _ in STOPS], [c[i] for _, c in STOPS]) for i in range(3)], -1)
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), dtype=np.float32)[..., None]
    shown = colours * (0.35 + 0.65 * grey / 255)
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def masked(picture: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """A picture, dark outside a mask (h, w) in 0..1, with a line around it."""
    mask = Image.fromarray((np.asarray(stretched(values, picture.size)).clip(0, 1) * 255).astype(np.uint8))
    dark = Image.blend(picture, Image.new("RGB", picture.size, SHADE), 0.75)
    return outlined(Image.composite(picture, dark, mask), values, EDGE)


def outlined(picture: Image.Image, values: NDArray[np.floating], colour: tuple[int, int, int]) -> Image.Image:
    """A picture with a line around a mask (h, w) in 0..1."""
    inside = Image.fromarray((np.asarray(stretched(values, picture.size)) >= 0.5).astype(np.uint8) * 255)
    line = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    found = picture.copy()
    found.paste(colour, mask=Image.fromarray(line.astype(np.uint8) * 255))
    return found


def stretched(values: NDArray[np.floating], size: tuple[int, int]) -> Image.Image:
    """A map (h, w) as a picture (F) of `size`."""
    return Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side `side`."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)

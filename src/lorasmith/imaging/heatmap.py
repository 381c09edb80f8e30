"""Maps over pictures: heatmaps of attention, and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

COLOUR_STOPS = (
    (0.0, (13, 8, 72)),
    (0.25, (110, 18, 150)),
    (0.5, (200, 50, 105)),
    (0.75, (248, 140, 55)),
    (1.0, (253, 245, 120)),
)
"""Colours of a heatmap from the lowest to the highest value: dark blue over red to yellow, of rising lightness."""
SHADE = (20, 24, 60)
"""Colour that is blended over the parts of a picture outside of a mask."""
MASK_OUTLINE = (255, 220, 60)
"""Colour of the line around a mask, on a picture."""
HEATMAP_OUTLINE = (255, 255, 255)
"""Colour of the line around a mask, on a heatmap."""


def heatmap(picture: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """A heatmap (h, w) over the picture in grey. Colours run from the map's lowest to its highest value.

    A map with the same value everywhere gets the lowest colour.
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    # bicubic interpolation overshoots, so the resized map is clipped again
    levels = np.asarray(resize_map(scaled, picture.size), dtype=np.float32).clip(0, 1)

    stops = [stop for stop, _ in COLOUR_STOPS]
    channels = [np.interp(levels, stops, [colour[channel] for _, colour in COLOUR_STOPS]) for channel in range(3)]
    colours = np.stack(channels, -1)

    # The picture's brightness scales the colours, but never below 35 %, so that the map stays visible on black.
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), dtype=np.float32)[..., None]
    blended = colours * (0.35 + 0.65 * grey / 255)
    return Image.fromarray(blended.clip(0, 255).astype(np.uint8))


def highlight_mask(picture: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """The picture, dark outside of a mask (h, w) in 0..1, with a line around the mask."""
    opacity = np.asarray(resize_map(values, picture.size)).clip(0, 1) * 255
    mask = Image.fromarray(opacity.astype(np.uint8))
    dark = Image.blend(picture, Image.new("RGB", picture.size, SHADE), 0.75)
    return outline_mask(Image.composite(picture, dark, mask), values, MASK_OUTLINE)


def outline_mask(picture: Image.Image, values: NDArray[np.floating], colour: tuple[int, int, int]) -> Image.Image:
    """A copy of the picture with a line around a mask (h, w) in 0..1, where the mask crosses 0.5."""
    inside = np.asarray(resize_map(values, picture.size)) >= 0.5
    inside = Image.fromarray(inside.astype(np.uint8) * 255)
    # a pixel is on the line if its 3 x 3 neighbourhood has pixels of both sides
    largest = np.asarray(inside.filter(ImageFilter.MaxFilter(3)))
    smallest = np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    line = Image.fromarray((largest != smallest).astype(np.uint8) * 255)
    outlined = picture.copy()
    outlined.paste(colour, mask=line)
    return outlined


def resize_map(values: NDArray[np.floating], size: tuple[int, int]) -> Image.Image:
    """A map (h, w) as a picture of 32-bit floats (mode F) of `size`, (width, height)."""
    return Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)


def resize_longer_side(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side resized to `side` pixels; the aspect ratio stays."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)

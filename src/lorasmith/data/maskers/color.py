"""Masks from a background of one colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from pydantic import Field, field_validator

from lorasmith.data.maskers.base import Masker


class FromColor(Masker):
    """What has the background's colour, and hangs together with the border of the image, is not the subject."""

    kind: Literal["color"] = "color"
    color: str = "auto"
    """Of the background: `#00ff00`, `white`; `auto`: the middle one of the pixels at the border."""
    tolerance: float = Field(default=0.1, ge=0, le=1)
    """How far a channel may be from it; 1 is from black to white."""
    holes: bool = False
    """Places of the background's colour inside of the subject are background too."""

    @field_validator("color")
    @classmethod
    def _known(cls, color: str) -> str:
        try:
            if color != "auto":
                ImageColor.getrgb(color)
        except ValueError:
            raise ValueError("a colour such as #00ff00 or white, or auto") from None
        return color

    def __call__(self, picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)
        if self.color == "auto":
            edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            color = np.median(edge, axis=0)
        else:
            color = np.array(ImageColor.getrgb(self.color)[:3])
        like = np.abs(pixels - color).max(-1) <= self.tolerance * 255
        background = like if self.holes else from_border(like)
        return Image.fromarray(np.where(background, 0, 255).astype(np.uint8))


def from_border(places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of the places (H, W) that hang together with the border, by steps to the sides, up and down."""
    reached = np.zeros_like(places)
    reached[[0, -1]], reached[:, [0, -1]] = places[[0, -1]], places[:, [0, -1]]
    while True:
        further = along_rows(along_rows(reached, places).T, places.T).T
        if np.array_equal(further, reached):
            return reached
        reached = further


def along_rows(reached: NDArray[np.bool_], places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all of each unbroken stretch of places in a row of which any is reached."""
    height, width = places.shape
    stretch = np.cumsum(~places, axis=1) + np.arange(height)[:, None] * (width + 1)
    hit = np.zeros(height * (width + 1), dtype=bool)
    hit[stretch[reached]] = True
    return places & hit[stretch]

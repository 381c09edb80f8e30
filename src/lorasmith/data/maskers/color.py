"""Masks from a background of one colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from pydantic import Field, field_validator

from lorasmith.data.maskers.base import Masker


class FromColor(Masker):
    """Everything is the subject, except areas that have the colour of the background and are connected to the border
    of the image."""

    kind: Literal["color"] = "color"
    color: str = "auto"
    """The colour of the background: `#00ff00`, `white`; `auto`: the median of the pixels at the border."""
    tolerance: float = Field(default=0.1, ge=0, le=1)
    """How far each channel may be from that colour; 1 is the distance from black to white."""
    holes: bool = False
    """Areas of the background's colour inside the subject are background too."""

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
            rows_and_columns = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
            color = np.median(np.concatenate(rows_and_columns), axis=0)
        else:
            color = np.array(ImageColor.getrgb(self.color)[:3])
        has_color = np.abs(pixels - color).max(-1) <= self.tolerance * 255
        background = has_color if self.holes else connected_to_border(has_color)
        return Image.fromarray(np.where(background, 0, 255).astype(np.uint8))


def connected_to_border(places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The places (H, W) that are connected to the border by horizontal and vertical steps over places."""
    reached = np.zeros_like(places)
    for edge in (0, -1):
        reached[edge] = places[edge]
        reached[:, edge] = places[:, edge]
    # Whole runs are added at a time, so that few rounds are needed.
    while True:
        in_rows = extend_along_rows(reached, places)
        extended = extend_along_rows(in_rows.T, places.T).T
        if np.array_equal(extended, reached):
            return reached
        reached = extended


def extend_along_rows(reached: NDArray[np.bool_], places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`reached` extended to the whole of each unbroken run of places in a row that contains a reached one."""
    height, width = places.shape
    # Runs are numbered: the number rises where a place is missing, and starts anew in each row.
    first_of_row = np.arange(height)[:, None] * (width + 1)
    run = first_of_row + np.cumsum(~places, axis=1)
    run_is_reached = np.zeros(height * (width + 1), dtype=bool)
    run_is_reached[run[reached]] = True
    return places & run_is_reached[run]

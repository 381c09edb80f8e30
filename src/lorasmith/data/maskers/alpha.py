"""Masks from transparency."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.data.maskers.base import Masker


class FromAlpha(Masker):
    """The subject is everything that is not transparent."""

    kind: Literal["alpha"] = "alpha"

    def __call__(self, picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
        if alpha is None:
            raise LorasmithError("it has no alpha channel; use --from color for plain backgrounds, or --from rembg")
        return alpha

"""The extension point of ways to make masks."""

from __future__ import annotations

from abc import abstractmethod

from PIL import Image

from lorasmith.core.registry import Component


class Masker(Component, root="masker"):
    """Finds the subject of an image, for `lorasmith masks`."""

    @abstractmethod
    def __call__(self, picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
        """A mask (L, white is the subject) of the size of `picture` (RGB); `alpha` (L), if the image has one.

        Raises LorasmithError, which need not name the image, if it cannot be found in this way.
        """

"""The extension point of methods that make masks."""

from __future__ import annotations

from abc import abstractmethod

from PIL import Image

from lorasmith.core.registry import Component


class Masker(Component, root="masker"):
    """Finds the subject of an image, for `lorasmith masks`."""

    @abstractmethod
    def __call__(self, picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
        """The mask of `picture` (RGB): mode L, of the same size, white where the subject is. `alpha` (L) is the alpha
        channel of the image, if it has one.

        Raises LorasmithError if this method cannot find the subject; the message need not name the image.
        """

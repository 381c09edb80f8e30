"""Ways to find the subject of an image. One file a kind."""

from lorasmith.data.maskers.base import Masker
from lorasmith.data.maskers.make import Made, make_masks

__all__ = ["Made", "Masker", "make_masks"]

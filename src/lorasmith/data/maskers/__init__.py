"""Methods that find the subject of an image. One file a kind."""

from lorasmith.data.maskers.base import Masker
from lorasmith.data.maskers.make import MaskReport, make_masks

__all__ = ["MaskReport", "Masker", "make_masks"]

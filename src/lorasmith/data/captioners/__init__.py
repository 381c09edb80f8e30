"""Models that write captions for images. One file a kind."""

from lorasmith.data.captioners.base import Captioner
from lorasmith.data.captioners.make import CaptionReport, captioner_of, write_captions

__all__ = ["CaptionReport", "Captioner", "captioner_of", "write_captions"]

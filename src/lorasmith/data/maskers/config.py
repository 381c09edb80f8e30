"""The settings of `lorasmith masks`."""

from __future__ import annotations

from lorasmith.core.registry import Config
from lorasmith.data.maskers.base import Masker


class MaskConfig(Config):
    """How masks are made."""

    source: Masker

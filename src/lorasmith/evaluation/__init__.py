"""Measures of pictures. One file a scorer."""

from lorasmith.evaluation.base import Eyes, Scorer, Seen

__all__ = ["Eyes", "Scorer", "Seen"]

"""Evaluation of LoRAs: how well generated pictures show their prompts and the trained concept.

A *picture* is generated and evaluated; a *training image* is what it is compared with. Each scorer has
a file of its own.
"""

from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer
from lorasmith.moved_modules import renamed

__all__ = ["FeatureExtractor", "Features", "Scorer"]


def __getattr__(name: str) -> object:
    """Old names, until version 0.3."""
    return renamed("evaluation", name)

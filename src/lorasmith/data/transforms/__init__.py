"""Changes of images and captions on their way into a batch. One file a kind."""

from typing import Any

from lorasmith.data.transforms.base import CaptionTransform, Crop, ImageTransform, TrainingProgress, Transform
from lorasmith.moved_modules import renamed

__all__ = ["CaptionTransform", "Crop", "ImageTransform", "TrainingProgress", "Transform"]


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("data.transforms", name)

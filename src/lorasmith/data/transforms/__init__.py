"""Changes of images and captions on their way into a batch. One file a kind."""

from lorasmith.data.transforms.base import CaptionTransform, Cut, ImageTransform, Moment, Transform

__all__ = ["CaptionTransform", "Cut", "ImageTransform", "Moment", "Transform"]

"""What an objective adds to its loss. One file a kind."""

from lorasmith.train.objectives.parts.base import ObjectivePart

__all__ = ["ObjectivePart"]

"""What an objective adds to its loss. One file a kind."""

from lorasmith.training.step.objectives.terms.base import ObjectivePart

__all__ = ["ObjectivePart"]

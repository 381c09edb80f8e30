"""Weights of the loss over t. One file a kind."""

from lorasmith.diffusion.weightings.base import Weighting

__all__ = ["Weighting"]

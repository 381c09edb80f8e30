"""Distances between output and target. One file a kind."""

from lorasmith.diffusion.losses.base import Loss

__all__ = ["Loss"]

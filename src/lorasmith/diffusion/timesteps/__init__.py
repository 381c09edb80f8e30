"""Which t each sample is trained at. One file a kind."""

from lorasmith.diffusion.timesteps.base import TimestepSampler

__all__ = ["TimestepSampler"]

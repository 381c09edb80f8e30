"""Changes of the Gaussian noise before it is added. One file a kind."""

from lorasmith.diffusion.noise.base import Noise

__all__ = ["Noise"]

"""Lorasmith: train, sample, fuse and ship LoRAs for Stable Diffusion."""

__version__ = "0.1.0"

"""Settings of an adapter for some layers only."""

from __future__ import annotations

from pydantic import Field

from lorasmith.core.registry import Config

MAX_RANK = 8192
"""Ranks above are refused. The weights of the largest layers of Stable Diffusion have a full rank of 1,280."""


class LayerRule(Config):
    """Settings for some layers that differ from those of the others."""

    layers: str
    """fnmatch pattern of layer names."""
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    alpha: float | None = Field(default=None, gt=0)
    lr: float = Field(default=1.0, gt=0)
    """Factor of the learning rate."""
    module_dropout: float | None = Field(default=None, ge=0, lt=1)
    """For example 0.2 on `unet.*.attn2.to_[kv]`: Mix-of-Show's dropping of keys and values."""

"""Pictures as the Python API is asked for them: settings by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class SampleOptions(TypedDict, total=False):
    """How pictures are drawn; what is left out has the command's defaults."""

    negative: str
    seed: int
    """Of the first picture; the next count up."""
    steps: int
    cfg: float
    """Guidance; 1 is off."""
    sampler: str
    """`ddim`, `euler_a`, `dpm++_2m` ...; a wrong one is answered with the list."""
    width: int
    """Pixels, a multiple of 8; height likewise."""
    height: int
    clip_skip: int
    strengths: Sequence[float]
    """Factors of the LoRAs' strengths to draw each picture at, side by side in the grid; 0 is the base model."""
    vae: str
    """Another VAE in the place of the base's: a folder of diffusers, a hub id, or a `.safetensors`."""
    device: str
    precision: str
    regions: Sequence[dict[str, Any]]
    """Parts of the picture: tables of `prompt`, `box`, `negative`, `weight`."""
    apart: float
    """The share of steps in which each region is a picture of its own."""
    controls: Sequence[dict[str, Any]]
    """ControlNets and T2I-Adapters: tables of `model`, `image`, `weight`, `start`, `end`, `areas`."""

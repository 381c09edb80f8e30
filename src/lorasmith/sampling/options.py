"""The keyword arguments of `lorasmith.sample`: settings by name, as a type for editors and type checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict


class SampleOptions(TypedDict, total=False):
    """How pictures are generated; anything left out has the default of `lorasmith sample`."""

    negative: str
    seed: int
    """Seed of the first picture; it is counted up for the next ones."""
    steps: int
    cfg: float
    """Guidance scale; 1 turns guidance off."""
    guidance: float
    """What Flux.1 dev gets as its guidance; default 3.5."""
    sampler: str
    """`ddim`, `euler_a`, `dpm++_2m` ...; the error for an unknown name lists them all."""
    like: str
    """`a1111` or `comfyui`: draw as that program does when nothing is set there."""
    width: int
    """Pixels, a multiple of 8, as `height`."""
    height: int
    clip_skip: int
    strengths: Sequence[float]
    """Factors of the LoRAs' strengths: each picture is generated with each of them, side by side in the grid; 0 is the
    base model."""
    vae: str
    """A VAE in place of the base model's: a diffusers folder, a hub id, or a `.safetensors` file."""
    base_parts: Sequence[str]
    """Files and folders with the parts that a single file of Flux or SD3 lacks."""
    device: str
    precision: str
    regions: Sequence[dict[str, Any]]
    """Parts of the picture with their own prompts: tables of `prompt`, `box`, `negative`, `weight`."""
    apart: float
    """Fraction of the steps in which each region is generated as a separate picture."""
    conditions: Mapping[str, Path | str]
    """The pictures of conditions that the LoRA was trained with, by the names of the conditions."""
    controls: Sequence[dict[str, Any]]
    """ControlNets and T2I-Adapters: tables of `model`, `image`, `weight`, `start`, `end`, `areas`."""

"""Stable Diffusion 1.x: one CLIP-L text encoder, 768 wide (arXiv 2112.10752)."""

from __future__ import annotations

from typing import ClassVar

from lorasmith.families.stable_diffusion.family import StableDiffusion


class SD1(StableDiffusion):
    kind: ClassVar[str] = "sd1"

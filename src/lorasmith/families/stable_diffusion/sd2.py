"""Stable Diffusion 2.x: the first 23 of OpenCLIP-H's 24 layers, 1024 wide; the 768 px models predict v."""

from __future__ import annotations

from typing import ClassVar

from lorasmith.families.stable_diffusion.family import StableDiffusion


class SD2(StableDiffusion):
    kind: ClassVar[str] = "sd2"

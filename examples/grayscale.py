"""An image transform: half of all views lose their colours, so that a LoRA does not learn the colours of its images."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from lorasmith.data.transforms.base import ImageTransform, Sample

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue (ITU-R BT.601)."""


class Grayscale(ImageTransform):
    """Two variants, with and without colours. Both are encoded once and cached."""

    kind: Literal["grayscale"] = "grayscale"

    @property
    def variants(self) -> int:
        """How many different results an image has; the view draws one."""
        return 2

    def apply(self, sample: Sample, variant: int) -> Sample:
        """The sample, or for variant 1 the sample with three equal channels."""
        if variant == 0:
            return sample
        gray = np.rint(sample.pixels.astype(np.float32) @ LUMA).astype(np.uint8)
        return replace(sample, pixels=np.repeat(gray[..., None], 3, axis=-1))

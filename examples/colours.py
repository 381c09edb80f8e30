"""A scorer that compares the colours of pictures. It needs no model, and knows nothing of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer


class Colours(Scorer):
    """Histograms of colours; the score of two pictures is the cosine of the square roots of their histograms."""

    kind: Literal["colours"] = "colours"
    bins: int = Field(default=8, ge=2, le=32)
    """Of each channel."""

    def load(self, device: torch.device) -> FeatureExtractor:
        """The extractor; a scorer with a model loads it here."""
        return ColourExtractor(self.bins)


class ColourExtractor(FeatureExtractor):
    """Pictures as vectors of length 1."""

    def __init__(self, bins: int) -> None:
        self.bins = bins

    def pictures(self, images: Sequence[Image.Image]) -> Features:
        """(n, bins^3): the square roots of the shares, which have length 1 because the shares sum to 1."""
        vectors = torch.stack([self.histogram(image) for image in images]).sqrt()
        return Features(image=vectors, text=vectors)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """NaN: colours cannot be compared with texts."""
        return torch.full((len(texts), self.bins**3), float("nan"))

    def histogram(self, image: Image.Image) -> Tensor:
        """The share of each colour, (bins^3,)."""
        pixels = np.asarray(image.convert("RGB"), dtype=np.int64) * self.bins // 256
        index = (pixels[..., 0] * self.bins + pixels[..., 1]) * self.bins + pixels[..., 2]
        counts = np.bincount(index.ravel(), minlength=self.bins**3)
        return torch.from_numpy(counts / counts.sum()).float()

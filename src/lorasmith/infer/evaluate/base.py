"""The extension point of what looks at pictures for `lorasmith evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lorasmith.core.registry import Component


@dataclass(frozen=True)
class Seen:
    """Pictures as vectors of length 1: `image` (n, d) to compare with other pictures, `text` (n, k) with texts."""

    image: Tensor
    text: Tensor


class Eyes(ABC):
    """A scorer that is loaded."""

    @abstractmethod
    def pictures(self, images: Sequence[Image.Image]) -> Seen:
        """RGB pictures of any size as vectors, on the CPU."""

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts as vectors (n, k) of length 1, on the CPU; a row of NaN for a text that it cannot judge."""


class Scorer(Component, root="scorer"):
    """What turns pictures and texts into vectors whose cosines are measured."""

    @abstractmethod
    def load(self, device: torch.device) -> Eyes:
        """Ready to look. Raises LorasmithError if it cannot be had."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.kind  # pyright: ignore[reportAttributeAccessIssue]

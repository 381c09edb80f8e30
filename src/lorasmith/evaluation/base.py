"""The extension point of what looks at pictures for `lorasmith evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lorasmith import __version__
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

    def identity(self) -> str:
        """Differs where the vectors would: the settings, and the files of a model that lies on this machine."""
        model = getattr(self, "model", None)
        folder = Path(str(model)) if model is not None else None
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder is not None and folder.is_dir() else []
        facts = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
        return "\n".join([self.model_dump_json(exclude={"batch_size"}), __version__, *facts])

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.kind  # pyright: ignore[reportAttributeAccessIssue]

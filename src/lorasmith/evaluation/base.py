"""The extension point of models that measure pictures for `lorasmith evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lorasmith.core.package import VERSION
from lorasmith.core.registry import Component
from lorasmith.moved_modules import renamed


@dataclass(frozen=True)
class Features:
    """Vectors of length 1 for each of n pictures, on the CPU."""

    image: Tensor
    """(n, d), to compare with the `image` vectors of other pictures."""
    text: Tensor
    """(n, k), to compare with the vectors of texts."""


class FeatureExtractor(ABC):
    """A loaded scorer."""

    @abstractmethod
    def pictures(self, images: Sequence[Image.Image]) -> Features:
        """The vectors of RGB pictures of any size."""

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors of texts, (n, k) of length 1, on the CPU; a row of NaN for a text that cannot be compared."""


class Scorer(Component, root="scorer"):
    """A model that maps pictures and texts to vectors, whose cosines are the scores."""

    def ready(self) -> None:
        """Called before a run loads anything. Raises LorasmithError if `load` would not find the model."""

    @abstractmethod
    def load(self, device: torch.device) -> FeatureExtractor:
        """Load the model. Raises LorasmithError if that is not possible."""

    def identity(self) -> str:
        """A text that changes whenever the vectors may change: the settings, the version of Lorasmith, and the names,
        sizes and times of the files of a local model. It is the key of cached vectors."""
        parts = [self.model_dump_json(exclude={"batch_size"}), VERSION]
        model = getattr(self, "model", None)
        if model is not None and Path(str(model)).is_dir():
            # a model from the hub is identified by its id; the files of a local one may change
            for path in sorted(Path(str(model)).rglob("*")):
                if path.is_file():
                    status = path.stat()
                    parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
        return "\n".join(parts)

    @property
    def name(self) -> str:
        """The name in the report."""
        return self.kind  # pyright: ignore[reportAttributeAccessIssue]


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("evaluation.base", name)

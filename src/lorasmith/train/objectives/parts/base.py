"""The extension point of objective parts."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lorasmith.core.registry import Component
from lorasmith.data.dataset import Batch
from lorasmith.families.attention_maps import Maps


class ObjectivePart(Component, root="objective part"):
    """A term beside the loss, from where the new words look."""

    @abstractmethod
    def columns(self, words: Tensor) -> Tensor:
        """From `Cond.words` (B, tokens) to (B, kinds, tokens): what the maps are of."""

    @abstractmethod
    def __call__(self, maps: Maps, batch: Batch) -> Tensor:
        """The term, a scalar: a mean over samples, with gradient."""

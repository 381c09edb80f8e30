"""The extension point of objective parts."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.core.registry import Component
from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import Maps


class ObjectivePart(Component, root="objective part"):
    """A term beside the loss: of where the new words look, or of the words themselves."""

    needs_words: ClassVar[bool] = True
    """Whether there must be new words."""

    def columns(self, words: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Which attention maps the term needs. `words` (B, tokens): see `Family.new_token_index`. Returns (B, kinds,
        tokens), for each kind of map the weights of the tokens; by default there are no kinds."""
        return words.new_zeros(len(words), 0, words.shape[1]).float()

    @abstractmethod
    def __call__(self, maps: Maps, batch: Batch, family: Family) -> Tensor:
        """The term, a scalar: a mean over samples, with gradient. `maps`: those of `columns`."""

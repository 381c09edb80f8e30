"""The extension point of loss terms."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from lorasmith.core.registry import Component
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.concepts import Vocabulary
    from lorasmith.data.dataset import Batch
    from lorasmith.families.base import Family
    from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps


def __getattr__(name: str) -> Any:
    """Names that this module had in version 0.1."""
    return renamed("training.step.objectives.terms.base", name)


class LossTerm(Component, root="loss term"):
    """A term that is added to the loss: of the attention that new tokens get, or of the token embeddings."""

    needs_words: ClassVar[bool] = True
    """Whether the term needs new tokens."""

    def check(self, family: Family) -> None:
        """Raise LorasmithError if the term cannot be computed with this model. Called once, before training."""

    def columns(self, words: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Which attention maps the term needs. `words` (B, tokens): see `Family.new_token_index`. Returns (B, kinds,
        tokens), for each kind of map the weights of the tokens; by default there are no kinds."""
        return words.new_zeros(len(words), 0, words.shape[1]).float()

    @abstractmethod
    def __call__(self, maps: CrossAttentionMaps, batch: Batch, family: Family) -> Tensor:
        """The term: a scalar, a mean over samples, with gradient. `maps`: those that `columns` describes."""

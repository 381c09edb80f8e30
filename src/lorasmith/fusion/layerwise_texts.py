"""Prompts with layer-wise tokens: encoded for each cross-attention layer, and with one vector for all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.sampling.loras import vocabulary_of

ENCODE_BATCH = 4
"""Prompts that are encoded together, each of them for all layers."""


def mean_tokens(tokens: TokenEmbeddings) -> TokenEmbeddings:
    """The means over the layers, (vectors, 1, width)."""
    return {
        token: {part: tensor.mean(1, keepdim=True) for part, tensor in by_encoder.items()}
        for token, by_encoder in tokens.items()
    }


class TextEncodings:
    """Prompts encoded with layer-wise tokens (exact) and with the means over the layers."""

    def __init__(self, family: Family, tokens: TokenEmbeddings, names: Sequence[str], clip_skip: int) -> None:
        self.family, self.names, self.clip_skip = family, names, clip_skip
        self.layerwise = vocabulary_of(family, tokens)
        self.mean = vocabulary_of(family, mean_tokens(tokens))

    def pairs(self, prompts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """In batches, the contexts of prompts with each name: exact (B, layers, tokens, width) and with the mean (B,
        tokens, width); and for each token whether it belongs to the concept or comes after it, (B, tokens) bool."""
        texts = [prompt.replace("{}", name) for name in self.names for prompt in prompts]
        before_concept = [prompt.partition("{}")[0] for _ in self.names for prompt in prompts]
        for start in range(0, len(texts), ENCODE_BATCH):
            batch = slice(start, start + ENCODE_BATCH)
            exact, mean = (conditioning[CONTEXT].float() for conditioning in self.encode_both(texts[batch]))
            begins = [1 + len(self.family.tokens(text)) if text else 0 for text in before_concept[batch]]
            from_concept_on = torch.arange(mean.shape[1]) >= torch.tensor(begins)[:, None]
            yield exact, mean, from_concept_on.to(mean.device)

    def encode_both(self, texts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        """The same texts encoded with the layer-wise tokens and with the means."""
        # The words are the same, so one vocabulary takes the place of the other.
        self.family.learn(self.layerwise)
        exact = self.family.encode_text(texts, clip_skip=self.clip_skip)
        self.family.learn(self.mean)
        return exact, self.family.encode_text(texts, clip_skip=self.clip_skip)

    def encode_without_tokens(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """In batches, the contexts (B, tokens, width) of texts without the tokens."""
        for start in range(0, len(texts), ENCODE_BATCH):
            batch = texts[start : start + ENCODE_BATCH]
            yield self.family.encode_text(batch, clip_skip=self.clip_skip)[CONTEXT].float()

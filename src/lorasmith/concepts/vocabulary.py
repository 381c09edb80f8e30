"""The new tokens of a model: where they occur in texts, and their token embeddings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError


@dataclass(frozen=True)
class NewToken:
    """A new word and its rows of the embedding table: `count` vectors, of which `first` is the index of the first one
    among all new vectors, from 0."""

    text: str
    first: int
    count: int


class Vocabulary(nn.Module):
    """New tokens and their embeddings: `values[i][part]` is the tensor (vectors, layers or 1, width), float32, of token
    i for one text encoder.

    Tokens of one concept stand for one thing. Row k of the new vectors has the token id `size + k`, where `size` is the
    number of tokens that the model has itself; for cross-attention layer l it has the id `size + l * rows + k`.
    """

    _row_concepts: Tensor

    def __init__(
        self,
        words: Sequence[str],
        vectors: Sequence[Mapping[str, Tensor]],
        size: int,
        layers: int = 1,
        concepts: Sequence[int] = (),
    ) -> None:
        """`vectors`: for each word, by text encoder, (vectors, width) or (vectors, layers, width); `concepts`: for each
        word the number of its concept, from 0; default: all belong to one concept."""
        super().__init__()
        repeated = [word for word, count in Counter(words).items() if count > 1]
        if repeated:
            raise LorasmithError(f"two concepts have the word {min(repeated)}; each concept needs words of its own")
        self.size = size
        self.values = nn.ModuleList(nn.ParameterDict(_with_layers(by_encoder)) for by_encoder in vectors)
        self.layers = self._common_depth(layers)

        # Each token takes the rows after those of the token before it.
        self.tokens: list[NewToken] = []
        self.rows = 0
        for word, value in zip(words, self.values, strict=True):
            count = next(value.parameters()).shape[0]
            self.tokens.append(NewToken(word, self.rows, count))
            self.rows += count
        self._pattern = _pattern_of(words)

        # For each row its concept; -1 in front is for the model's own tokens.
        self.concepts = tuple(concepts) or (0,) * len(self.tokens)
        row_concepts = [-1]
        for concept, token in zip(self.concepts, self.tokens, strict=True):
            row_concepts += [concept] * token.count
        self.register_buffer("_row_concepts", torch.tensor(row_concepts), persistent=False)
        self.initial = {name: p.detach().clone() for name, p in self.named_parameters()}

    def _common_depth(self, layers: int) -> int:
        """`layers` if any token has vectors for each layer, else 1. Raises LorasmithError for other depths."""
        depths = {p.shape[1] for p in self.parameters()} - {1}
        if depths - {layers}:
            raise LorasmithError(f"new words for {max(depths)} cross-attention layers; this model has {layers}")
        return layers if depths else 1

    def table(self, part: str) -> Tensor:
        """All new vectors of a text encoder, (layers * rows, width)."""
        vectors = [_tensors(value)[part].expand(-1, self.layers, -1) for value in self.values]
        return torch.cat(vectors).transpose(0, 1).flatten(0, 1)

    def split(self, text: str) -> list[str | NewToken]:
        """A text divided at its new tokens; pieces of nothing but spaces are left out."""
        tokens = {token.text: token for token in self.tokens}
        pieces = self._pattern.split(text)
        return [tokens.get(piece, piece) for piece in pieces if piece.strip()]

    def token_ids(self, token: NewToken) -> list[int]:
        """The token ids of a new token, one for each of its vectors."""
        first = self.size + token.first
        return list(range(first, first + token.count))

    def row_numbers(self, ids: Tensor) -> Tensor:
        """For each token id 1 + its row of the new vectors, or 0 for a token of the model's own."""
        # Ids of all layers lead to the same rows.
        rows = (ids - self.size) % max(1, self.rows)
        return torch.where(ids >= self.size, rows + 1, 0)

    def concept_numbers(self, rows: Tensor) -> Tensor:
        """For each entry of `row_numbers` the number of its concept, or -1 for a token of the model's own."""
        return self._row_concepts[rows]

    def concept_of(self, word: str) -> int | None:
        """The number of the concept that a word belongs to; None if it is not a new word."""
        pairs = zip(self.concepts, self.tokens, strict=True)
        return next((concept for concept, token in pairs if token.text == word), None)

    def ids_per_layer(self, ids: Tensor) -> Tensor:
        """Ids (B, ...) as each cross-attention layer has them, (B, layers, ...)."""
        # The ids of a layer follow those of the layer before; the model's own tokens have the same ids in all layers.
        shift = torch.arange(self.layers, device=ids.device) * self.rows
        shift = shift.view(1, -1, *[1] * (ids.dim() - 1))
        ids = ids[:, None]
        return torch.where(ids >= self.size, ids + shift, ids)

    @contextmanager
    def with_initial_vectors(self) -> Iterator[None]:
        """Use the vectors of before the training in this context."""
        trained = {name: p.detach().clone() for name, p in self.named_parameters()}
        self._set_parameters(self.initial)
        try:
            yield
        finally:
            self._set_parameters(trained)

    @torch.no_grad()
    def _set_parameters(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.named_parameters():
            p.copy_(values[name])


class ExtendedEmbedding(nn.Module):
    """The token embedding of a text encoder, extended by the vectors of new tokens."""

    def __init__(self, base: nn.Embedding, vocabulary: Vocabulary, part: str) -> None:
        super().__init__()
        self.base = base
        self._source = [(vocabulary, part)]  # in a list, so as not to become a submodule: it owns its weights

    @property
    def weight(self) -> Tensor:
        """The model's own embedding (text encoders look at its dtype)."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        vocabulary, part = self._source[0]
        is_new = ids >= vocabulary.size
        base_vectors = self.base(torch.where(is_new, 0, ids))
        table = vocabulary.table(part).to(base_vectors.dtype)
        new_vectors = table[(ids - vocabulary.size).clamp(min=0)]
        return torch.where(is_new[..., None], new_vectors, base_vectors)


def _with_layers(vectors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Parameters (vectors, layers or 1, width) of vectors that may lack the dimension of the layers."""
    parameters: dict[str, nn.Parameter] = {}
    for part, tensor in vectors.items():
        with_layers = tensor if tensor.dim() == 3 else tensor[:, None]
        parameters[part] = nn.Parameter(with_layers.detach().float().clone())
    return parameters


def _tensors(values: nn.Module) -> dict[str, Tensor]:
    return dict(values.named_parameters())


def _pattern_of(words: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; a word that begins or ends with a letter or digit only where none
    is next to it."""
    if not words:
        return re.compile(r"(?!)")  # never matches
    alternatives: list[str] = []
    for word in sorted(words, key=len, reverse=True):
        before = r"(?<!\w)" if word[0].isalnum() else ""
        after = r"(?!\w)" if word[-1].isalnum() else ""
        alternatives.append(f"{before}{re.escape(word)}{after}")
    return re.compile(f"({'|'.join(alternatives)})")

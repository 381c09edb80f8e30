"""The new words of a model: where they stand in texts, and their vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError


@dataclass(frozen=True)
class Word:
    """A word and its rows: `first` is the place of its first vector among all new vectors, from 0."""

    text: str
    first: int
    count: int


class Vocabulary(nn.Module):
    """New words by text encoder: `values[i][part]` is word i's tensor (vectors, layers or 1, width), float32.

    Words of one concept stand for one thing. In token ids, row k of the new vectors is `size + k`, where `size` is how
    many tokens the model has of its own; for cross-attention layer l it is `size + l * rows + k`.
    """

    _concepts: Tensor

    def __init__(
        self,
        words: Sequence[str],
        vectors: Sequence[Mapping[str, Tensor]],
        size: int,
        layers: int = 1,
        concepts: Sequence[int] = (),
    ) -> None:
        """`concepts`: for each word the number of its concept, from 0; default: all are of one."""
        super().__init__()
        twice = {w for w in words if list(words).count(w) > 1}
        if twice:
            raise LorasmithError(f"two concepts have the word {min(twice)}; each needs its own")
        self.size = size
        self.values = nn.ModuleList(nn.ParameterDict(_matrices(v)) for v in vectors)
        depths = {t.shape[1] for v in self.values for t in _tensors(v).values()} - {1}
        if depths - {layers}:
            raise LorasmithError(f"new words for {max(depths)} cross-attention layers; this model has {layers}")
        self.layers = layers if depths else 1
        self.words: list[Word] = []
        for text, tensors in zip(words, self.values, strict=True):
            first = self.words[-1].first + self.words[-1].count if self.words else 0
            self.words.append(Word(text, first, next(iter(_tensors(tensors).values())).shape[0]))
        self.rows = sum(word.count for word in self.words)
        self._pattern = _pattern(words)
        self.concepts = tuple(concepts) or (0,) * len(self.words)
        rows = [c for c, word in zip(self.concepts, self.words, strict=True) for _ in range(word.count)]
        self.register_buffer("_concepts", torch.tensor([-1, *rows]), persistent=False)
        self.initial = {name: p.detach().clone() for name, p in self.named_parameters()}

    def table(self, part: str) -> Tensor:
        """All new vectors of a text encoder, (layers * rows, width)."""
        return (
            torch.cat([_tensors(v)[part].expand(-1, self.layers, -1) for v in self.values])
            .transpose(0, 1)
            .flatten(0, 1)
        )

    def pieces(self, text: str) -> list[str | Word]:
        """A text cut at its new words."""
        found: list[str | Word] = []
        known = {word.text: word for word in self.words}
        for piece in self._pattern.split(text):
            if piece in known:
                found.append(known[piece])
            elif piece.strip():
                found.append(piece)
        return found

    def ids(self, word: Word) -> list[int]:
        """The token ids that stand for a word."""
        return list(range(self.size + word.first, self.size + word.first + word.count))

    def rows_in(self, ids: Tensor) -> Tensor:
        """For each token id 0, or 1 + its row of the new vectors."""
        return torch.where(ids >= self.size, (ids - self.size) % max(1, self.rows) + 1, 0)

    def concepts_in(self, rows: Tensor) -> Tensor:
        """For each entry of `rows_in` the number of its concept, or -1 for a token of the model's own."""
        return self._concepts[rows]

    def concept_of(self, word: str) -> int | None:
        """The number of the concept that a word is of; None if it is no new word."""
        return next((c for c, own in zip(self.concepts, self.words, strict=True) if own.text == word), None)

    def per_layer(self, ids: Tensor) -> Tensor:
        """Ids (B, ...) as each cross-attention layer has them, (B, layers, ...)."""
        shift = torch.arange(self.layers, device=ids.device) * self.rows
        shift = shift.view(1, -1, *[1] * (ids.dim() - 1))
        return torch.where(ids[:, None] >= self.size, ids[:, None] + shift, ids[:, None])

    def norms(self) -> Tensor:
        """The length of each vector of the first text encoder, (layers * rows,)."""
        part = next(iter(_tensors(self.values[0])))
        return torch.linalg.vector_norm(self.table(part).detach(), dim=-1)

    @contextmanager
    def initially(self) -> Iterator[None]:
        """The words as they were before training."""
        kept = {name: p.detach().clone() for name, p in self.named_parameters()}
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(self.initial[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.named_parameters():
                    p.copy_(kept[name])


class NewRows(nn.Module):
    """A text encoder's token embedding with the new vectors behind its own."""

    def __init__(self, base: nn.Embedding, vocabulary: Vocabulary, part: str) -> None:
        super().__init__()
        self.base = base
        self._of = [(vocabulary, part)]  # not a submodule: its weights are the vocabulary's

    @property
    def weight(self) -> Tensor:
        """The model's own embedding (callers look at its dtype)."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        vocabulary, part = self._of[0]
        new = ids >= vocabulary.size
        own = self.base(torch.where(new, 0, ids))
        table = vocabulary.table(part).to(own.dtype)
        rows = table[(ids - vocabulary.size).clamp(min=0)]
        return torch.where(new[..., None], rows, own)


def _matrices(vectors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """(vectors, width) as (vectors, 1, width)."""
    return {
        part: nn.Parameter((t if t.dim() == 3 else t[:, None]).detach().float().clone()) for part, t in vectors.items()
    }


def _tensors(values: nn.Module) -> dict[str, Tensor]:
    return dict(values.named_parameters())


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; a word of letters only where no letter or digit is beside it."""
    if not words:
        return re.compile(r"(?!)")
    parts = []
    for word in sorted(words, key=len, reverse=True):
        before = r"(?<!\w)" if word[0].isalnum() else ""
        after = r"(?!\w)" if word[-1].isalnum() else ""
        parts.append(f"{before}{re.escape(word)}{after}")
    return re.compile(f"({'|'.join(parts)})")

"""What the text encoder of a base will read of a caption, found with its tokenizer alone."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import torch

from lorasmith.concepts import Vocabulary
from lorasmith.data.dataset import Dataset
from lorasmith.families.base import Family
from lorasmith.families.load import open_base
from lorasmith.families.stable_diffusion import emphasis, text
from lorasmith.training.config import TrainConfig


class TokenReader:
    """Counts the tokens of captions as training does, new tokens included. The tokenizer is loaded when the first long
    caption is read; until then, neither the base nor transformers is needed."""

    def __init__(self, config: TrainConfig) -> None:
        self.max_tokens: int = config.text.max_tokens
        self.weighted = config.text.weighted
        self._config = config

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the first text encoder. Raises LorasmithError if the base is not found."""
        source: Any = open_base(self._config.base, parts=self._config.base_parts)
        return text.load_tokenizer(source, source.text_components[0])

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The new tokens of the run, with vectors that only have the right number."""
        words = {word: concept.vectors for concept in self._config.concepts for word in concept.words}
        if not words:
            return None
        vectors = [{"te": torch.zeros(count, 1)} for count in words.values()]
        return Vocabulary(list(words), vectors, len(self.tokenizer))

    def read(self, caption: str) -> tuple[int, str]:
        """The number of tokens of a caption, and the text of those that are read."""
        # A token of the model's own is at least one byte, so most captions need no tokenizer.
        if not self._config.concepts and len(caption.encode()) <= self.max_tokens:
            return len(caption.split()), caption
        if not self.weighted:
            ids = self.tokens(caption)
            return len(ids), self._text_of(ids[: self.max_tokens])
        # Emphasis makes windows that end at commas. It needs nothing of a family but its tokens.
        windows = emphasis.tokens_of(cast(Family, self), caption)
        count = self.max_tokens // emphasis.WINDOW
        read = [token for window in windows[:count] for token, _ in window]
        total = sum(len(window) for window in windows)
        return (total if len(windows) <= count else max(total, self.max_tokens + 1)), self._text_of(read)

    def tokens(self, caption: str) -> list[int]:
        """Token ids of a text of any length."""
        return text.tokens(self.tokenizer, caption, self.vocabulary)

    def _text_of(self, ids: list[int]) -> str:
        """The text of token ids; a new token is its word."""
        own = len(self.tokenizer)
        words = {own + token.first: token.text for token in self.vocabulary.tokens} if self.vocabulary else {}
        pieces: list[str] = []
        run: list[int] = []
        for token_id in [*ids, -1]:  # the last one ends the last run
            if 0 <= token_id < own:
                run.append(token_id)
                continue
            pieces.append(self.tokenizer.decode(run))
            pieces.append(words.get(token_id, ""))
            run = []
        return " ".join(pieces)


def trigger_tokens(config: TrainConfig, family: Family, dataset: Dataset) -> dict[str, list[str]]:
    """How the tokenizer cuts each trigger word; empty if all texts were cached before, since a run that need not load a
    tokenizer does not."""
    if dataset.text_cached and dataset.summary()["cache"]["texts"]["made"] == 0:
        return {}
    new_words = {word for concept in config.concepts for word in concept.words}
    words = [word for word in config.trigger if word not in new_words]
    return {word: [family.tokenizer.decode([token]) for token in family.tokens(word)] for word in words}

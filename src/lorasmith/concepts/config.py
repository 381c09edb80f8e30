"""The settings of concepts: new words and how they are learned."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from lorasmith.core.registry import Config

RANDOM_INIT = re.compile(r"<rand-(\d*\.?\d+)>")
"""An `init` entry for random vectors with this standard deviation."""
EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")
"""An `init` that ends in one of these is a file."""
DEFAULT_INIT = "<rand-0.017>"


class Concept(Config):
    """One or several new words that stand for one thing. Each has vectors of its own in place of a token embedding."""

    words: tuple[str, ...] = Field(min_length=1)
    """As they are written in captions and prompts: `["<potter1>", "<potter2>"]`, or `["garp"]`."""
    vectors: int = Field(default=1, ge=1, le=64)
    """Number of vectors of each word."""
    init: tuple[str, ...] = ()
    """What each word starts as: an existing word, several (one for each vector), `<rand-0.013>` for random vectors with
    this standard deviation, or a textual inversion file to continue from. One entry is for all words.
    Default: `<rand-0.017>`."""
    layerwise: bool = False
    """Learn a vector for each cross-attention layer (P+, arXiv 2303.09522) instead of one for all layers."""
    lr: float = Field(default=1e-3, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    norm_stop: float | None = Field(default=None, gt=0)
    """Stop learning the words for good as soon as the mean length of their vectors is at least this (Mix-of-Show:
    0.55)."""
    keep_std: bool = False
    """After each step, scale the vectors to the standard deviation of the model's own token embeddings."""

    @field_validator("words", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("init", mode="before")
    @classmethod
    def _single_init(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Concept:
        if len(self.init) not in (0, 1, len(self.words)):
            raise ValueError(
                f"init has {len(self.init)} entries for {len(self.words)} words; give one entry, or one for each word"
            )
        for word in self.words:
            if not word or any(character.isspace() for character in word):
                raise ValueError("words must differ, and must not contain spaces")
        if len(set(self.words)) != len(self.words):
            raise ValueError("words must differ, and must not contain spaces")
        return self

    def init_of(self, index: int) -> str:
        """The entry of `init` for the word with this index."""
        if not self.init:
            return DEFAULT_INIT
        return self.init[index % len(self.init)]  # one entry is for all words

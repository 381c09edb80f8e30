"""What is said of a concept before training."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from lorasmith.core.registry import Config

RANDOM = re.compile(r"<rand-(\d*\.?\d+)>")
"""An initial word that means: drawn at random with this standard deviation."""


class Concept(Config):
    """One or several new words that mean one thing, each with vectors of its own in place of a token's."""

    words: tuple[str, ...] = Field(min_length=1)
    """As they stand in captions and prompts: `["<potter1>", "<potter2>"]`, or `["garp"]`."""
    vectors: int = Field(default=1, ge=1, le=64)
    """Of each word."""
    init: tuple[str, ...] = ()
    """What each word starts as: an existing word, several (one a vector), or `<rand-0.013>`, a random vector with this
    standard deviation, or a file of textual inversion to go on from. One entry is for all words.
    Default: `<rand-0.017>`."""
    layerwise: bool = False
    """Learn a vector for each cross-attention layer (P+, arXiv 2303.09522) in place of one for all."""
    lr: float = Field(default=1e-3, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    norm_stop: float | None = Field(default=None, gt=0)
    """Stop learning the words for good once the mean length of their vectors is at least this (Mix-of-Show: 0.55)."""
    keep_std: bool = False
    """After each step bring the vectors back to the standard deviation of the model's own words."""

    @field_validator("words", mode="before")
    @classmethod
    def _one_word(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("init", mode="before")
    @classmethod
    def _one_init(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Concept:
        if len(self.init) not in (0, 1, len(self.words)):
            raise ValueError(f"init has {len(self.init)} entries for {len(self.words)} words; give one, or one a word")
        blank = [word for word in self.words if not word or any(c.isspace() for c in word)]
        if blank or len(set(self.words)) != len(self.words):
            raise ValueError("words must differ, and have no blanks inside")
        return self

    def init_of(self, index: int) -> str:
        """The entry of `init` for a word."""
        return "<rand-0.017>" if not self.init else self.init[index if len(self.init) > 1 else 0]

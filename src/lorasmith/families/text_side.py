"""The interface of a family's text side: from captions to a conditioning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.families.conditioning import Conditioning


class TextSide(ABC):
    """Tokenizer, text encoders and new tokens. They are loaded when first used, so that a run whose captions are cached
    never loads them."""

    text_components: ClassVar[tuple[str, ...]]
    """Component names of the text encoders: `te`, or `te1` and `te2`."""
    vocabulary: Vocabulary | None = None
    """The new tokens that texts may contain now; set by `learn`."""

    @property
    @abstractmethod
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """Component name to frozen text encoder. Loads them on first use."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """transformers' tokenizer that `tokenize` uses. Loads it on first use."""

    def set_t5_tokens(self, count: int) -> None:
        """How many tokens T5 reads of a text. Raises LorasmithError for families without T5."""
        raise LorasmithError("text.t5_tokens: this base has no T5 encoder; remove it")

    @abstractmethod
    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int | None = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
        """Captions to a conditioning; gradients flow if the text encoders have trainable adapters.

        `max_tokens` 75, 150 or 225: longer texts are encoded in windows of 75 and joined; None, with `weighted`: as
        many windows as the longest text needs. `clip_skip` 1 is the last layer; n takes the n-th from the end, followed
        by the final LayerNorm (SD 1.x). `weighted`: brackets are emphasis and windows end at commas, as in prompts
        (`stable_diffusion/emphasis.py`).
        """

    @abstractmethod
    def count_windows(self, texts: Sequence[str]) -> int:
        """How many windows of tokens the longest of these prompts is encoded in."""

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Token ids of a text of any length, without begin and end. New tokens have the ids of their vectors."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str], max_tokens: int = 75) -> Tensor:
        """Token ids (B, n, 77) int64: n = max_tokens / 75 windows with begin and end tokens. The rest is cut off."""

    @abstractmethod
    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        """Token ids (B, n, 77) to a conditioning with 77 n tokens.

        `weights`: (B, n, 77), factors of the token states. The mean of each window is then restored (A1111's way).
        """

    @abstractmethod
    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        """`conditioning` with the sizes of the image, for families that are conditioned on them (SDXL); others return
        it unchanged. `original` and `target`: (B, 2) height and width; `crop`: (B, 2) top and left."""

    @abstractmethod
    def learn(self, vocabulary: Vocabulary | None) -> None:
        """Let texts contain these new tokens from now on, or none."""

    @abstractmethod
    def new_token_index(self, conditioning: Conditioning) -> Tensor | None:
        """(B, tokens) int64: 0 for a token of the model, k for the k-th vector of the new tokens, from 1. None if there
        were no new tokens when the texts were encoded."""

    @abstractmethod
    def token_embeddings(self, text: str) -> Mapping[str, Tensor]:
        """The model's token embeddings of a text without new tokens: (tokens, width) float32 by text encoder."""

    @abstractmethod
    def embedding_tables(self) -> Mapping[str, Tensor]:
        """The model's whole token embeddings: (tokens, width) by text encoder, in the model's dtype."""

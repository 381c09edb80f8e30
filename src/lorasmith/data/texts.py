"""Captions as conditions, encoded once where they are few enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.cache import TensorCache
from lorasmith.data.transforms import CaptionTransform
from lorasmith.families.base import Conditioning, Family

MOST_OUTCOMES = 64
"""Of one image; beyond, its captions are not all cached but encoded in each step."""


@dataclass(frozen=True)
class TextSettings:
    """How captions are encoded."""

    max_tokens: int = 75
    clip_skip: int = 1
    weighted: bool = False


class TextCache(TensorCache):
    """The tensors of a conditioning with one row, for each caption."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "texts")
        self.encoder: dict[str, object] | None = None
        """Family, text encoder and plan that made the conditions; None before they are made."""

    def fill(self, captions: Iterable[str], family: Family, plan: TextSettings, progress: Progress) -> None:
        """Encode the captions that are missing."""
        self.encoder = {"kind": family.kind, "text": family.fingerprint("text"), "plan": vars(plan)}
        missing = [c for c in sorted(set(captions)) if self.get(self.key_of(c)) is None]
        if not missing:
            return
        with progress.track("encoding captions", len(missing)) as advance, torch.no_grad():
            for caption in missing:
                conditioning = family.encode_text([caption], **vars(plan))
                self.put(self.key_of(caption), dict(conditioning.tensors))
                advance(1, "")

    def of(self, captions: Sequence[str]) -> Conditioning:
        """The condition of a batch of captions that `fill` was given."""
        return Conditioning.concat([self._one(caption) for caption in captions])

    def key_of(self, caption: str) -> str:
        """The name of a caption's condition."""
        assert self.encoder is not None
        return self.key(caption=caption, **self.encoder)

    def _one(self, caption: str) -> Conditioning:
        found = self.get(self.key_of(caption))
        if found is None:
            raise LorasmithError(f'the text "{caption}" left the cache while training; start again')
        return Conditioning(found)


def outcomes(captions: Sequence[str], transforms: Sequence[CaptionTransform]) -> set[str] | None:
    """Every text that an image with these captions may be trained with; None if there are too many."""
    texts = set(captions or ("",))
    for transform in transforms:
        changed = [transform.outcomes(text) for text in texts]
        if any(c is None for c in changed):
            return None
        texts = set().union(*(c for c in changed if c is not None))
    return texts if len(texts) <= MOST_OUTCOMES else None

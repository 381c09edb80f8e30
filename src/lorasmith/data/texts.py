"""The cache of encoded captions, and which captions an image can have."""

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

MAX_CAPTIONS = 64
"""If one image can have more captions than this, captions are not cached but encoded in each step."""


@dataclass(frozen=True)
class TextSettings:
    """How captions are encoded."""

    max_tokens: int = 75
    clip_skip: int = 1
    weighted: bool = False


class TextCache(TensorCache):
    """The tensors of a `Conditioning` with one row, for each caption."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "texts")
        self.encoder: dict[str, object] | None = None
        """Family, text encoder and settings that made the tensors; None before `fill`."""

    def fill(self, captions: Iterable[str], family: Family, settings: TextSettings, progress: Progress) -> None:
        """Encode the captions that are missing."""
        self.encoder = {"kind": family.kind, "text": family.fingerprint("text"), "plan": vars(settings)}
        # Sorted, so that the progress and the order of the files are the same each time.
        unique_captions = sorted(set(captions))
        missing = [caption for caption in unique_captions if self.get(self.key_of(caption)) is None]
        if not missing:
            return
        with progress.track("encoding captions", len(missing)) as advance, torch.no_grad():
            # One at a time, so that the result does not depend on the other captions.
            for caption in missing:
                conditioning = family.encode_text([caption], **vars(settings))
                self.put(self.key_of(caption), conditioning.tensors)
                advance(1, "")

    def load(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of a batch of captions that `fill` was called with."""
        rows: list[Conditioning] = []
        for caption in captions:
            tensors = self.get(self.key_of(caption))
            if tensors is None:
                raise LorasmithError(
                    f'the encoding of the caption "{caption}" was deleted from the cache while training; continue with '
                    "--resume, which makes it again"
                )
            rows.append(Conditioning(tensors))
        return Conditioning.concat(rows)

    def key_of(self, caption: str) -> str:
        """The cache key of a caption."""
        assert self.encoder is not None
        return self.key(caption=caption, **self.encoder)


def possible_captions(captions: Sequence[str], transforms: Sequence[CaptionTransform]) -> set[str] | None:
    """Every caption that an image may be trained with; None if there are more than MAX_CAPTIONS."""
    texts = set(captions or ("",))
    for transform in transforms:
        transformed: set[str] = set()
        for text in texts:
            outcomes = transform.outcomes(text)
            if outcomes is None:
                return None
            transformed |= outcomes
        texts = transformed
    return texts if len(texts) <= MAX_CAPTIONS else None

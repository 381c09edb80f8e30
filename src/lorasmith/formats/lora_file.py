"""A LoRA file as it was read, with its keys in kohya's spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LoraFile:
    """A file's tensors by key, in kohya's spelling, and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    spelling: str = "kohya"
    """The spelling that the keys had in the file."""
    bundled_embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Vectors of bundled new tokens (`bundle_emb`), by token and by their name in the file (`clip_l` ...)."""
    token_embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Vectors of new tokens in Lorasmith's own format, (vectors, layers or 1, width), by token and text encoder."""
    original_keys: tuple[str, ...] = ()
    """The keys as the file has them."""
    notes: tuple[str, ...] = ()
    """What was left out or assumed when the file was read, for the user."""
    lone_alphas: int = 0
    """Layers that had an alpha and nothing else, and are left out of `tensors`."""
    scalars: int = 0
    """Layers with a `scalar` other than 1, which is multiplied into one of the tensors."""

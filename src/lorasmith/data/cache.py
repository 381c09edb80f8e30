"""Latents and text outputs computed once, named by everything that decides them.

A cache file is named by the hash of its causes, so nothing stale can be read whatever setting changes. Files may be
shared by runs and deleted at any time; one that cannot be read is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path

VERSION = 1
"""Raised when the way from file to tensor changes."""


def default_folder() -> Path:
    """LORASMITH_CACHE, else ~/.cache/lorasmith."""
    return Path(os.environ.get("LORASMITH_CACHE") or Path.home() / ".cache" / "lorasmith")


class TensorCache:
    """Named tensors by their causes, on disk and in memory."""

    def __init__(self, folder: Path, sort: str) -> None:
        self.folder, self.sort = folder / sort, sort
        self.hits = self.misses = 0
        self._resident: dict[str, dict[str, Tensor]] = {}

    def key(self, **causes: object) -> str:
        """The name under which the result of `causes` is kept."""
        text = json.dumps({"version": VERSION, "sort": self.sort, **causes}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key, from memory or disk; None if they must be made."""
        if key in self._resident:
            return self._resident[key]
        with contextlib.suppress(OSError, SafetensorError, ValueError):
            self._resident[key] = load_file(self._path(key))
            self.hits += 1
            return self._resident[key]
        self.misses += 1
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors in memory and, if the disk allows, in a file."""
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self._resident[key] = own
        with contextlib.suppress(LorasmithError), atomic_path(self._path(key)) as temporary:
            save_file(own, temporary)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"

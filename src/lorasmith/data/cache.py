"""Tensors computed once, named by everything that decides them.

A cache file is named by the hash of its causes, so nothing stale can be read whatever setting changes. Files may be
shared by runs and deleted at any time; one that cannot be read, or whose bytes changed, is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path

VERSION = 3
"""Raised when the way from file to tensor changes."""


def default_folder() -> Path:
    """LORASMITH_CACHE, else ~/.cache/lorasmith."""
    return Path(os.environ.get("LORASMITH_CACHE") or Path.home() / ".cache" / "lorasmith")


class TensorCache:
    """Named tensors by their causes, on disk and in memory.

    `hits` and `misses` count what was found on disk and what was not; `unwritable` says why files cannot be kept.
    """

    def __init__(self, folder: Path, sort: str) -> None:
        self.folder, self.sort = folder.expanduser() / sort, sort
        self.hits = self.misses = 0
        self.unwritable = ""
        self._resident: dict[str, dict[str, Tensor]] = {}

    def key(self, **causes: object) -> str:
        """The name under which the result of `causes` is kept."""
        text = json.dumps({"version": VERSION, "sort": self.sort, **causes}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key, from memory or disk; None if they must be made."""
        if key in self._resident:
            return self._resident[key]
        found = read(self._path(key))
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._resident[key] = found
        return found

    def _keeps(self, key: str) -> bool:
        """Whether another process has written it meanwhile; then it is read, and counts as missing all the same."""
        found = read(self._path(key))
        if found is not None:
            self._resident[key] = found
        return found is not None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors in memory and, if the disk allows, in a file."""
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self._resident[key] = own
        try:
            with atomic_path(self._path(key)) as temporary:
                save_file(own, temporary, {"crc": checksum(own)})
        except (LorasmithError, SafetensorError) as error:
            self.unwritable = str(error)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a cache file, or None if it is not there or not whole."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = (file.metadata() or {}).get("crc")
    except (OSError, SafetensorError, ValueError):
        return None
    return tensors if said == checksum(tensors) else None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the bytes of all tensors in the order of their names."""
    value = 0
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"

"""Tensors computed once, named by everything that decides them.

A cache file is named by the hash of what its content depends on, so an outdated file can never be read, whatever
setting changes. Files may be shared by runs and deleted at any time; one that cannot be read, or whose bytes changed,
is made again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.cache_folder import cache_folder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path

VERSION = 3
"""Must be raised when the way from file to tensor changes."""
MEMORY_LIMIT = 384 * 2**20
"""Bytes of a cache that stay in memory: the latents of some 3,000 images of 512 px. Reading others takes well under a
millisecond each, mostly from the system's own cache."""


def default_folder() -> Path:
    """LORASMITH_CACHE, else ~/.cache/lorasmith."""
    return cache_folder()


class TensorCache:
    """Named tensors under a key, on disk and, up to a limit, in memory.

    `hits` and `misses` count what was found on disk and what was not; `unwritable` says why files cannot be written,
    if so. `bytes_in_memory`: of the tensors that could be read again.
    """

    def __init__(self, folder: Path, sort: str, memory_limit: int = MEMORY_LIMIT) -> None:
        """`sort`: what is cached, such as `latents`; the sub-folder of `folder`, and a part of every key."""
        self.folder, self.sort = folder.expanduser() / sort, sort
        self.memory_limit = memory_limit
        self.hits = self.misses = 0
        self.unwritable = ""
        self.bytes_in_memory = 0
        self._in_memory: dict[str, dict[str, Tensor]] = {}
        self._known: set[str] = set()
        """Keys that have been counted as found or missing."""

    def key(self, **parts: object) -> str:
        """The cache key of what is computed from `parts`."""
        everything = {"version": VERSION, "sort": self.sort, **parts}
        text = json.dumps(everything, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key, from memory or disk; None if they must be made."""
        if key in self._in_memory:
            return self._in_memory[key]
        tensors = read(self._path(key))
        # An entry that is read again, because memory is limited, has been counted.
        if key not in self._known:
            self._known.add(key)
            self.hits += tensors is not None
            self.misses += tensors is None
        if tensors is not None:
            self._keep(key, tensors)
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors in memory and, if the disk allows, in a file."""
        # Copies: a row of a batch would keep the whole batch in memory.
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            with atomic_path(self._path(key)) as temporary:
                save_file(copies, temporary, {"crc": checksum(copies)})
        except (LorasmithError, SafetensorError) as error:  # a full disk must not end a run
            self.unwritable = str(error)
            # Memory is the only place that it has, so no limit applies to it.
            self._in_memory[key] = copies
            return
        self._keep(key, copies)

    def _keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep an entry that is on disk in memory too, while there is room.

        Entries are never exchanged: each epoch takes all of them in another order, so the next one needed is as likely
        to be among those in memory as any other.
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if key not in self._in_memory and self.bytes_in_memory + size <= self.memory_limit:
            self._in_memory[key] = tensors
            self.bytes_in_memory += size

    def counts(self) -> dict[str, int]:
        """How many entries were found on disk and how many had to be made."""
        return {"found": self.hits, "made": self.misses}

    def _load_again(self, key: str) -> bool:
        """Load an entry that was missing and that another process may have written since; whether it exists now. It
        still counts as missing."""
        tensors = read(self._path(key))
        if tensors is None:
            return False
        self._keep(key, tensors)
        return True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a cache file, or None if it does not exist or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored_checksum = (file.metadata() or {}).get("crc")
    except (OSError, SafetensorError, ValueError):
        return None
    return tensors if stored_checksum == checksum(tensors) else None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the bytes of all tensors in the order of their names."""
    value = 0
    for _, tensor in sorted(tensors.items()):
        data = tensor.contiguous().flatten().view(torch.uint8)  # numpy knows no bfloat16
        value = zlib.crc32(data.numpy().tobytes(), value)
    return f"{value:08x}"

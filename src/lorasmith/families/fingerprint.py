"""Hashes of the parts of a base model. Each is computed once for a state of the files and stored in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import sha256_of, write_text
from lorasmith.families.reader import digest
from lorasmith.families.source import Source


def cache_folder() -> Path:
    """Where hashes are stored: LORASMITH_CACHE, else `lorasmith` in the user's cache folder."""
    configured = os.environ.get("LORASMITH_CACHE")
    if configured:
        return Path(configured)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "lorasmith"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lorasmith"


def part_hash(source: Source, part: str) -> str:
    """SHA-256 over config and weights of a part, and for a text encoder over its tokenizer."""
    refs = source.raw(part)
    files = {ref.path for ref in refs.values()}
    names = hashlib.sha256(" ".join(sorted(refs)).encode()).hexdigest()
    weights = _cached(files, f"{part} {names}", lambda: digest(refs))

    config = json.dumps(source.config(part), sort_keys=True)
    result = hashlib.sha256(f"{weights} {source.kind} {config}".encode())
    if is_text_encoder(part):
        for file in sorted(p for p in source.tokenizer(part).iterdir() if p.is_file()):
            result.update(f"{file.name} {sha256_of(file)}".encode())
    return result.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file."""
    return _cached({path}, "file", lambda: sha256_of(path))


def _cached(files: set[Path], subject: str, compute: Callable[[], str]) -> str:
    """A hash from the cache, or computed and stored. `subject`: what of the files is hashed."""
    return cached_text(files, subject, compute, lambda stored: len(stored) == 64)


def cached_text(files: set[Path], subject: str, compute: Callable[[], str], is_valid: Callable[[str], bool]) -> str:
    """What was found out about files, from the cache, or computed and stored.

    The entry's name has sizes and times of the files, so that a changed file has another entry. `subject`: what was
    found out; `is_valid`: whether a stored text can be an answer.
    """
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]
    key = hashlib.sha256(f"{subject} {stats}".encode()).hexdigest()
    entry = cache_folder() / "hashes" / key
    with contextlib.suppress(OSError):
        stored = entry.read_text(encoding="ascii").strip()
        if is_valid(stored):
            return stored
    value = compute()
    with contextlib.suppress(OSError, LorasmithError):  # a cache that cannot be written costs time, not the run
        write_text(entry, value)
    return value

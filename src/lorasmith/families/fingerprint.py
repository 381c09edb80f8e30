"""Hashes of the parts of a base model, kept per file state so that each is computed once."""

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
    """Where hashes are kept: LORASMITH_CACHE, else `lorasmith` in the user's cache folder."""
    if given := os.environ.get("LORASMITH_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "lorasmith"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lorasmith"


def part_hash(source: Source, part: str) -> str:
    """SHA-256 over config and weight bytes of a part (text encoders: and of its tokenizer)."""
    refs = source.raw(part)
    files = {ref.path for ref in refs.values()}
    names = hashlib.sha256(" ".join(sorted(refs)).encode()).hexdigest()
    weights = _remembered(files, f"{part} {names}", lambda: digest(refs))
    rest = hashlib.sha256(f"{weights} {source.kind} {json.dumps(source.config(part), sort_keys=True)}".encode())
    if is_text_encoder(part):
        for file in sorted(p for p in source.tokenizer(part).iterdir() if p.is_file()):
            rest.update(f"{file.name} {sha256_of(file)}".encode())
    return rest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file."""
    return _remembered({path}, "file", lambda: sha256_of(path))


def _remembered(files: set[Path], what: str, compute: Callable[[], str]) -> str:
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]
    key = hashlib.sha256(f"{what} {stats}".encode()).hexdigest()
    place = cache_folder() / "hashes" / key
    with contextlib.suppress(OSError):
        kept = place.read_text(encoding="ascii").strip()
        if len(kept) == 64:
            return kept
    value = compute()
    with contextlib.suppress(OSError, LorasmithError):  # a cache that cannot be written costs time, not the run
        write_text(place, value)
    return value

"""Small pictures of images as WebP files, made when they are first shown and kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

from lorasmith.core.cache_folder import cache_folder
from lorasmith.core.errors import LorasmithError

SIDES = (96, 192, 384, 768)
"""Longer sides in pixels; others are rounded up to the next, so that the cache does not grow with every window."""
AT_ONCE = threading.Semaphore(2)
"""Decoding takes memory: many at a time would take much of it for no speed."""


def thumbnail_file(path: Path, side: int) -> Path:
    """The WebP file of an image with at least `side` pixels on its longer side, if the image has as many.

    Raises LorasmithError if the image cannot be read.
    """
    size = next((known for known in SIDES if known >= side), SIDES[-1])
    status = path.stat()
    key = hashlib.sha256(f"{path}\0{status.st_mtime_ns}\0{status.st_size}\0{size}".encode()).hexdigest()
    file = cache_folder() / "thumbnails" / key[:2] / f"{key[2:34]}.webp"
    if not file.is_file():
        with AT_ONCE:
            make(path, size, file)
    return file


def make(path: Path, side: int, file: Path) -> None:
    """Write the small picture. Raises LorasmithError if the image cannot be read."""
    # numpy and Pillow are imported with the first picture
    from lorasmith.data.thumbnails import thumbnail

    try:
        picture = thumbnail(path, side)
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{path.name}: {error}") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    # not synced to disk as other files are: it can be made again, and there may be thousands
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        picture.save(temporary, format="WEBP", quality=82, method=2)
        os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

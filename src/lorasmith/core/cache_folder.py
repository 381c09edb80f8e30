"""Where files are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """LORASMITH_CACHE, else ~/.cache/lorasmith."""
    return Path(os.environ.get("LORASMITH_CACHE") or Path.home() / ".cache" / "lorasmith")

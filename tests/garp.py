"""Photos of the small character that comes with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

GARP = Path(__file__).parents[1] / "src" / "lorasmith" / "assets" / "garp"


def copy_photos(folder: Path, start: int, end: int, captions: bool = False) -> None:
    """Copy some of the photos in the order of their names, and their captions if asked to, into a new folder."""
    folder.mkdir(parents=True)
    for photo in sorted(GARP.glob("*.png"))[start:end]:
        shutil.copy(photo, folder)
        if captions:
            shutil.copy(photo.with_suffix(".txt"), folder)

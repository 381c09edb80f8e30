"""Which files of a folder are images, and in which order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.mask_files import MASK_FOLDERS, masked_stem

CLASS_FOLDER = re.compile(r"(\d+)_(.*)")
"""A folder whose name says how often its images are repeated and what they show: `10_cat dog`."""


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """Image files of a folder in natural order; hidden files and folders, and masks beside images, are left out.

    Raises OSError if a folder cannot be read.
    """
    folders = folders_below(folder) if recursive else [folder]
    files = [file for path in folders for file in path.iterdir()]
    pictures = natural(
        file for file in files if file.suffix.lower() in SUFFIXES and not is_hidden(file) and file.is_file()
    )
    stems = {(picture.parent, picture.stem) for picture in pictures}
    return [picture for picture in pictures if not is_mask(picture, stems)]


def is_mask(picture: Path, stems: set[tuple[Path, str]]) -> bool:
    """Whether a picture is the mask of another one: `1-masklabel.png` beside `1.png`, or `mask/1.png` below it.
    `stems`: folder and stem of all pictures."""
    stem = masked_stem(picture.stem)
    if stem is not None and (picture.parent, stem) in stems:
        return True
    return picture.parent.name.lower() in MASK_FOLDERS and (picture.parent.parent, picture.stem) in stems


def folders_below(folder: Path) -> list[Path]:
    """A folder and all folders below it, also linked ones, without hidden ones. A folder to which several paths lead is
    listed once. Raises OSError if one cannot be read."""
    folders: list[Path] = []
    visited: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for root, names, _ in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(root)
        if real in visited:
            names.clear()
            continue
        visited.add(real)
        folders.append(Path(root))
        # Links come last, so that a folder is listed by its own path rather than by a link beside it.
        visible = [name for name in names if not name.startswith(".")]
        names[:] = sorted(visible, key=lambda name: (os.path.islink(os.path.join(root, name)), name))
    return folders


def is_hidden(path: Path) -> bool:
    """Whether the name of a file or folder says that it is not to be seen."""
    return path.name.startswith(".")


def natural(paths: Iterable[Path]) -> list[Path]:
    """Paths sorted so that 2.png comes before 10.png."""

    def key(path: Path) -> tuple[list[tuple[int, str]], str]:
        # Text and numbers in turn: the odd parts are numbers and are compared as such.
        parts = re.split(r"([0-9]+)", str(path).lower())
        comparable = [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]
        return comparable, str(path)

    return sorted(paths, key=key)

"""Pictures in the layout of Mix-of-Show's `visualization` folders.

`<folder>/<set>/<pass>/<prompt>---G_7.5_S_50---<number>---<pass>.png`, and beside each pass a grid of it,
`<folder>/<set>/G_7.5_S_50---<pass>.jpg`, with a row for each prompt. A pass is one strength at one step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lorasmith.core.store import atomic_path
from lorasmith.imaging.grid import grid

LONGEST_PROMPT = 120
"""Bytes of a prompt in a file name, so that the name stays below the 255 bytes that file systems allow."""
FORBIDDEN = '<>:"/\\|?*'
"""Characters that some file system does not allow in names."""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture on the disk, its prompt, and its number among the pictures of that prompt, from 1."""

    file: Path
    prompt: str
    number: int


def strength_name(strength: float) -> str:
    """A strength as Mix-of-Show's folders name it: `0`, `0.7`, `1.0`."""
    return str(float(strength)) if strength else "0"


def write_pass(
    folder: Path, name: str, pictures: Sequence[DrawnPicture], *, steps: int, cfg: float, with_grid: bool
) -> None:
    """Write the pictures of one pass. `folder`: the folder of the set of prompts; `name`: that of the pass.

    The pictures are linked where the file system allows it, so that they are on the disk once.
    """
    arguments = f"G_{cfg}_S_{steps}"
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        target = place / f"{prompt_name(picture.prompt)}---{arguments}---{picture.number}---{name}.png"
        target.unlink(missing_ok=True)
        try:
            os.link(picture.file, target)
        except OSError:
            shutil.copyfile(picture.file, target)
    if not with_grid:
        return

    rows: dict[str, list[Image.Image]] = {}
    for picture in pictures:
        with Image.open(picture.file) as image:
            rows.setdefault(picture.prompt, []).append(image.convert("RGB"))
    with atomic_path(folder / f"{arguments}---{name}.jpg") as temporary:
        grid(list(rows.values()), row_labels=list(rows)).save(temporary, format="JPEG", quality=95)


def prompt_name(prompt: str) -> str:
    """A prompt as the part of a file name."""
    text = "".join(character for character in prompt if character not in FORBIDDEN and character.isprintable())
    # Cut between characters, by their length in UTF-8.
    data = text.replace(" ", "_").encode("utf-8", "ignore")[:LONGEST_PROMPT]
    return data.decode("utf-8", "ignore") or "empty"

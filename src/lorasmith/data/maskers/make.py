"""Masks of all images of a folder, as files beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress
from lorasmith.core.store import atomic_path
from lorasmith.data.images import SUFFIXES, decode
from lorasmith.data.maskers.base import Masker
from lorasmith.data.scan import images_in

LITTLE, MUCH = 0.01, 0.99
"""Shares of an image below and above which a mask is probably wrong."""


@dataclass
class Made:
    """What `make_masks` did: masks that were `made` and `kept` as they were, with the share of the image that they
    have, by the images' paths; and images whose masks are probably wrong, with why."""

    folder: Path
    made: dict[Path, float] = field(default_factory=dict)
    kept: dict[Path, float] = field(default_factory=dict)
    remarks: dict[Path, str] = field(default_factory=dict)
    sheet: Path | None = None
    """A picture of all masks."""

    def mask(self, image: Path) -> Path:
        """The mask's file of an image."""
        return self.folder / f"{image.stem}.png"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "folder": str(self.folder),
            "sheet": self.sheet and str(self.sheet),
            "made": {path.name: round(share, 4) for path, share in self.made.items()},
            "kept": {path.name: round(share, 4) for path, share in self.kept.items()},
            "remarks": {path.name: text for path, text in self.remarks.items()},
        }


def make_masks(
    images: Path, masker: Masker, *, output: Path | None = None, overwrite: bool = False, progress: Progress
) -> Made:
    """A mask `output/NAME.png` (default: `images/masks`) for each image directly in the folder.

    Masks that are there stay, unless `overwrite`. Raises LorasmithError if there are no images, or two of one name;
    ConfigError with every image that cannot be read or masked, after the others have got theirs.
    """
    files = listed(images)
    found = Made(output or images / "masks")
    problems: list[Problem] = []
    with progress.track("making masks", len(files)) as advance:
        for path in files:
            try:
                share = masked(path, found, masker, overwrite)
            except (LorasmithError, ValueError, OSError) as error:
                problems.append(Problem(str(path), str(error)))
            else:
                if not LITTLE < share < MUCH:
                    found.remarks[path] = f"the mask has {share:.1%} of the image"
            advance(1, path.name)
    if len(problems) == len(files) > 1 and len({p.found for p in problems}) == 1:
        raise LorasmithError(f"{images}: the same with all {len(files)} images: {problems[0].found}")
    if problems:
        raise ConfigError(problems, "the images")
    return found


def listed(folder: Path) -> list[Path]:
    """The images in a folder, no two of one name."""
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: no such folder")
    files = images_in(folder, recursive=False)
    if not files:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        below = [f.name for f in sorted(folder.iterdir()) if f.is_dir() and images_in(f, recursive=False)]
        hint = f"; there are some in {', '.join(below[:3])}: name such a folder" if below else ""
        raise LorasmithError(f"{folder}: there are no images in it ({kinds}){hint}")
    names: dict[str, Path] = {}
    for path in files:
        if path.stem in names:
            raise LorasmithError(
                f"{names[path.stem].name} and {path.name} would have the same mask {path.stem}.png; rename one of them"
            )
        names[path.stem] = path
    return files


def masked(path: Path, found: Made, masker: Masker, overwrite: bool) -> float:
    """The share of the image that its mask has, which is made if need be."""
    target = found.mask(path)
    if target.exists() and not overwrite:
        with Image.open(target) as there:
            share = share_of(there.convert("L"))
        found.kept[path] = share
        return share
    mask = masker(*decode(path.read_bytes()))
    with atomic_path(target) as temporary:
        mask.save(temporary, "png")
    found.made[path] = share_of(mask)
    return found.made[path]


def share_of(mask: Image.Image) -> float:
    """How much of the image it covers, 0 to 1."""
    return float(np.asarray(mask, dtype=np.float32).mean() / 255)

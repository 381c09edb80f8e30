"""Masks of all images of a folder, written as files beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress
from lorasmith.core.store import atomic_path
from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.images import decode
from lorasmith.data.listing import images_in
from lorasmith.data.maskers.base import Masker

MIN_COVERAGE, MAX_COVERAGE = 0.01, 0.99
"""Shares of an image below and above which a mask is probably wrong."""


@dataclass
class MaskReport:
    """The result of `make_masks`: masks that were `made`, and masks that existed and were `kept`, each with the share
    of the image that it covers, by the path of the image. `remarks`: images whose masks are probably wrong, with the
    reason."""

    folder: Path
    made: dict[Path, float] = field(default_factory=dict)
    kept: dict[Path, float] = field(default_factory=dict)
    remarks: dict[Path, str] = field(default_factory=dict)
    sheet: Path | None = None
    """A contact sheet of all masks."""

    def mask(self, image: Path) -> Path:
        """The mask file of an image."""
        return self.folder / f"{image.stem}.png"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "folder": str(self.folder),
            "sheet": self.sheet and str(self.sheet),
            "made": {path.name: round(coverage, 4) for path, coverage in self.made.items()},
            "kept": {path.name: round(coverage, 4) for path, coverage in self.kept.items()},
            "remarks": {path.name: text for path, text in self.remarks.items()},
        }


def make_masks(
    images: Path, masker: Masker, *, output: Path | None = None, overwrite: bool = False, progress: Progress
) -> MaskReport:
    """Write a mask `output/NAME.png` (default: `images/masks`) for each image directly in the folder.

    Existing masks are kept, unless `overwrite`. Raises LorasmithError if there are no images, or two of the same name;
    ConfigError with every image that cannot be read or masked, after the masks of the others were written.
    """
    files = list_images(images)
    report = MaskReport(output or images / "masks")
    problems: list[Problem] = []
    with progress.track("making masks", len(files)) as advance:
        for path in files:
            mask_file = report.mask(path)
            try:
                if mask_file.exists() and not overwrite:
                    with Image.open(mask_file) as existing:
                        coverage = mask_coverage(existing.convert("L"))
                    report.kept[path] = coverage
                else:
                    mask = masker(*decode(path.read_bytes()))
                    # Written whole or not at all: an existing file counts as a finished mask.
                    with atomic_path(mask_file) as temporary:
                        mask.save(temporary, "png")
                    coverage = mask_coverage(mask)
                    report.made[path] = coverage
            except (LorasmithError, ValueError, OSError) as error:
                problems.append(Problem(str(path), str(error)))
            else:
                if not MIN_COVERAGE < coverage < MAX_COVERAGE:
                    report.remarks[path] = f"the mask covers {coverage:.1%} of the image"
            advance(1, path.name)

    # One message in place of many equal ones, such as a package that is not installed.
    if len(problems) == len(files) > 1 and len({problem.found for problem in problems}) == 1:
        raise LorasmithError(f"{images}: the same error for all {len(files)} images: {problems[0].found}")
    if problems:
        raise ConfigError(problems, "the images")
    return report


def list_images(folder: Path) -> list[Path]:
    """The images directly in a folder. Raises LorasmithError if there are none, or if two would have the same mask."""
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: no such folder")
    files = images_in(folder, recursive=False)
    if not files:
        suffixes = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        # A common mistake is to name the folder above the images.
        sub_folders = [
            path.name for path in sorted(folder.iterdir()) if path.is_dir() and images_in(path, recursive=False)
        ]
        hint = ""
        if sub_folders:
            hint = f"; there are images in {', '.join(sub_folders[:3])}: name one of these folders"
        raise LorasmithError(f"{folder}: there are no images in it ({suffixes}){hint}")

    file_by_stem: dict[str, Path] = {}
    for path in files:
        other = file_by_stem.setdefault(path.stem, path)
        if other is not path:
            raise LorasmithError(
                f"{other.name} and {path.name} would have the same mask {path.stem}.png; rename one of them"
            )
    return files


def mask_coverage(mask: Image.Image) -> float:
    """The share of the image that a mask covers, 0 to 1."""
    return float(np.asarray(mask, dtype=np.float32).mean() / 255)

"""Finding images and captions, and everything that is wrong with them, before training."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from lorasmith.core.errors import Problem
from lorasmith.data.config import SubsetConfig
from lorasmith.data.images import SUFFIXES, size_of
from lorasmith.data.transforms import Transform

CLASS_FOLDER = re.compile(r"(\d+)_(.*)")


@dataclass(frozen=True)
class Found:
    """An image file with its captions; nothing of it has been read yet."""

    path: Path
    captions: tuple[str, ...]
    repeats: int
    subset: SubsetConfig


@dataclass(frozen=True)
class ImageRecord:
    """An image that was read whole: `size` is (width, height) as seen, `digest` the SHA-256 of the file."""

    path: Path
    captions: tuple[str, ...]
    repeats: int
    size: tuple[int, int]
    digest: str
    loss_weight: float = 1.0
    mask: Path | Literal["alpha"] | None = None
    transforms: tuple[Transform, ...] = ()

    @property
    def caption(self) -> str:
        """The first caption, or an empty text."""
        return self.captions[0] if self.captions else ""


def scan(subset: SubsetConfig, key: str, skip_bad: bool) -> tuple[list[ImageRecord], list[Problem]]:
    """All images of a subset in natural order, and what is wrong. `key`: the subset's place in the config."""
    found, problems = find(subset, key)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read_record, found))
    records = [r for r in results if isinstance(r, ImageRecord)]
    bad = [r for r in results if isinstance(r, Problem)]
    if not skip_bad:
        problems += bad
    if found and not records and not problems:
        problems.append(Problem(key, f"none of {len(found)} images can be read", remedy="look at the files"))
    return records, problems


def find(subset: SubsetConfig, key: str) -> tuple[list[Found], list[Problem]]:
    """The image files that a subset names."""
    source = subset.images
    if not source.exists():
        return [], [Problem(f"{key}.images", f'"{source}" does not exist', remedy="correct the path")]
    problems: list[Problem] = []
    if source.suffix in (".jsonl", ".json"):
        found = from_metadata(source, subset, problems)
    elif source.is_file():
        found = [Found(source, captions_of(source, subset, problems), subset.repeats, subset)]
    elif (source / "metadata.jsonl").is_file():
        found = from_metadata(source / "metadata.jsonl", subset, problems)
    else:
        found = list(from_folder(source, subset, problems))
    if not found and not problems:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        remedy = "name a folder with images, or set recursive = true to look into its sub-folders"
        problems.append(Problem(f"{key}.images", f'there are no images in "{source}"', f"files: {kinds}", remedy))
    return found, problems


def from_folder(folder: Path, subset: SubsetConfig, problems: list[Problem]) -> Iterator[Found]:
    """Images directly in a folder (or below it), or in its `N_class` sub-folders."""
    direct = images_in(folder, subset.recursive)
    classes = [(f, m) for f in natural(folder.iterdir()) if f.is_dir() and (m := CLASS_FOLDER.fullmatch(f.name))]
    if subset.class_folders is True or (subset.class_folders == "auto" and classes and not images_in(folder, False)):
        for sub, match in classes:
            repeats, name = int(match[1]), match[2].replace("_", " ").strip()
            own = subset.model_copy(update={"caption": subset.caption or name or None})
            if repeats > 0:
                for path in images_in(sub, False):
                    yield Found(path, captions_of(path, own, problems), repeats * subset.repeats, own)
        return
    for path in direct:
        yield Found(path, captions_of(path, subset, problems), subset.repeats, subset)


def from_metadata(path: Path, subset: SubsetConfig, problems: list[Problem]) -> list[Found]:
    """`metadata.jsonl`: one object a line with `file_name` and `text` (or `caption`, `prompt`)."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image = path.parent / row["file_name"]
        except (ValueError, KeyError, TypeError) as error:
            problems.append(Problem(f"{path}:{number}", f"not an object with file_name ({error})"))
            continue
        caption = next((row[k] for k in ("text", "caption", "prompt") if row.get(k)), None) or subset.caption
        texts = tuple(caption) if isinstance(caption, list) else ((str(caption),) if caption is not None else ())
        if image.is_file():
            found.append(Found(image, texts, subset.repeats, subset))
        else:
            problems.append(Problem(f"{path}:{number}", f'the image "{row["file_name"]}" does not exist'))
    return found


def captions_of(image: Path, subset: SubsetConfig, problems: list[Problem]) -> tuple[str, ...]:
    """The lines of an image's caption file that are not empty; else the fallback."""
    for extension in subset.caption_extension:
        path = image.with_suffix(extension)
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                problems.append(Problem(str(path), f"not UTF-8 text (byte {error.start})", remedy="save it as UTF-8"))
                return ()
            return tuple(line.strip() for line in text.splitlines() if line.strip()) or ("",)
    return (subset.caption,) if subset.caption is not None else ()


def read_record(found: Found) -> ImageRecord | Problem:
    """Read and decode an image once, so that training never meets one that cannot be read."""
    try:
        data = found.path.read_bytes()
        if not data:
            return Problem(str(found.path), "the file is empty", remedy=BAD_IMAGE)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
        size = size_of(found.path)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return Problem(str(found.path), f"not a whole image ({error})", remedy=BAD_IMAGE)
    subset = found.subset
    mask = mask_of(found)
    if isinstance(mask, Problem):
        return mask
    digest = hashlib.sha256(data).hexdigest()
    weight = subset.loss_weight
    return ImageRecord(found.path, found.captions, found.repeats, size, digest, weight, mask, subset.transforms)


BAD_IMAGE = "replace or remove it, or set data.skip_bad_images = true to train without it"


def mask_of(found: Found) -> Path | Literal["alpha"] | Problem | None:
    """The mask that belongs to an image."""
    source = found.subset.masks
    if source is None or source == "alpha":
        return source
    folder = Path(source)
    for suffix in (".png", ".webp", ".jpg", ".jpeg", ".bmp"):
        path = folder / f"{found.path.stem}{suffix}"
        if path.is_file():
            return path
    return Problem(str(found.path), f'there is no mask "{found.path.stem}.png" in {folder}')


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """Image files of a folder in natural order, hidden files left out."""
    files = folder.rglob("*") if recursive else folder.iterdir()
    return natural(f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())


def natural(paths: Iterator[Path] | list[Path]) -> list[Path]:
    """Paths sorted so that 2.png comes before 10.png."""
    return sorted(paths, key=lambda p: [(int(s), "") if s.isdigit() else (0, s) for s in re.split(r"(\d+)", str(p))])

"""Finding images and captions, and everything that is wrong with them, before training."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lorasmith.core.errors import Problem
from lorasmith.data.captions import LINES, captions_of, read_text
from lorasmith.data.config import BucketConfig, SubsetConfig, sides_of
from lorasmith.data.images import SUFFIXES, decode
from lorasmith.data.masks import decode_mask, mask_path
from lorasmith.data.metadata import read_metadata
from lorasmith.data.transforms import Transform

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files beside images with the captions of all."""
CLASS_FOLDER = re.compile(r"(\d+)_(.*)")
BAD_IMAGE = "replace or remove it, or set data.skip_bad_images = true to train without it"


@dataclass(frozen=True)
class Found:
    """An image file with its captions; nothing of it has been read yet."""

    path: Path
    captions: tuple[str, ...]
    repeats: int
    subset: SubsetConfig


@dataclass(frozen=True)
class ImageRecord:
    """An image that was read whole: `size` is (width, height) as seen, `digest` the SHA-256 of the file.

    `captions` is empty if there is none; `mask_digest` is the SHA-256 of the mask's file, if it has one;
    `concept_masks`: the concepts that it has masks of, with each mask's file and its SHA-256;
    `resolution` (width, height), `batch_size` and `buckets` are there if they differ from the data's.
    """

    path: Path
    captions: tuple[str, ...]
    repeats: int
    size: tuple[int, int]
    digest: str
    loss_weight: float = 1.0
    mask: Path | Literal["alpha"] | None = None
    mask_digest: str = ""
    transforms: tuple[Transform, ...] = ()
    resolution: tuple[int, int] | None = None
    batch_size: int | None = None
    buckets: BucketConfig | None = None
    hold_out: bool = True
    masks_weigh: bool = True
    preserve: bool = False
    resize: str = "auto"
    opaque: bool = True
    concept_masks: tuple[tuple[str, Path, str], ...] = ()

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that it has masks of."""
        return tuple(name for name, _, _ in self.concept_masks)

    @property
    def caption(self) -> str:
        """The first caption, or an empty text."""
        return self.captions[0] if self.captions else ""


@dataclass
class Scan:
    """What a subset holds. `skipped`: images left out, as was asked; `problems`: what keeps a run from starting."""

    records: list[ImageRecord] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def scan(subset: SubsetConfig, key: str, skip_bad: bool) -> Scan:
    """All images of a subset in natural order, and what is wrong. `key`: the subset's place in the config."""
    found, problems = find(subset, key)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read_record, found))
    records = [r for r in results if isinstance(r, ImageRecord)]
    bad = [r for r in results if isinstance(r, Problem)]
    problems += unused(subset, key, records)
    if not skip_bad:
        return Scan(records, [], problems + bad)
    if found and not records:
        problems.append(Problem(key, f"none of {len(found)} images can be read; {bad[0].where}: {bad[0].found}"))
    return Scan(records, bad, problems)


def unused(subset: SubsetConfig, key: str, records: Sequence[ImageRecord]) -> Iterator[Problem]:
    """Folders of concepts' masks in which there is none of any image."""
    for word, folder in subset.concept_masks.items():
        if records and folder.expanduser().is_dir() and not any(word in record.concepts for record in records):
            what = f'{folder} has no mask of any of the {len(records)} images, such as "{records[0].path.stem}.png"'
            yield Problem(f"{key}.concept_masks.{word}", what, remedy="give masks the names of their images")


def find(subset: SubsetConfig, key: str) -> tuple[list[Found], list[Problem]]:
    """The image files that a subset names."""
    source = subset.images.expanduser()
    problems: list[Problem] = []
    found: list[Found] = []
    folders = {"captions": subset.captions, "masks": subset.masks}
    folders |= {f"concept_masks.{word}": folder for word, folder in subset.concept_masks.items()}
    for name, folder in folders.items():
        if isinstance(folder, Path) and not folder.expanduser().is_dir():
            problems.append(Problem(f"{key}.{name}", f'"{folder}" is no folder', remedy="correct the path"))
    if not source.exists():
        return [], [*problems, Problem(f"{key}.images", f'"{source}" does not exist', remedy="correct the path")]
    try:
        if subset.metadata is not None:
            named = read_metadata(subset.metadata.expanduser(), source, problems)
            found = [Found(path, captions, subset.repeats, subset) for path, captions in named]
        elif source.name in TABLES or source.suffix in (".jsonl", ".parquet"):
            found = from_metadata(source, subset, problems)
        elif source.is_file():
            found = [Found(source, captions_of(source, subset, problems), subset.repeats, subset)]
        elif table := next((t for n in TABLES if (t := source / n).is_file()), None):
            found = from_metadata(table, subset, problems)
        else:
            found = list(from_folder(source, subset, problems))
    except OSError as error:
        what = f'"{error.filename or source}" cannot be read ({error.strerror})'
        problems.append(Problem(f"{key}.images", what, remedy="change its permissions"))
    if subset.caption_lines == "first":
        found = [replace(one, captions=one.captions[:1]) for one in found]
    if subset.part is not None:
        found = found[subset.part[0] : subset.part[1]]
    if not found and not problems:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        remedy = "name a folder with images, or set recursive = true to look into its sub-folders"
        problems.append(Problem(f"{key}.images", f'there are no images in "{source}"', f"files: {kinds}", remedy))
    return found, problems


def from_folder(folder: Path, subset: SubsetConfig, problems: list[Problem]) -> Iterator[Found]:
    """Images directly in a folder (or below it), or in its `N_class` sub-folders."""
    classes = [(f, m) for f in natural(folder.iterdir()) if f.is_dir() and (m := CLASS_FOLDER.fullmatch(f.name))]
    if subset.class_folders is True or (subset.class_folders == "auto" and classes and not images_in(folder, False)):
        for sub, match in classes:
            repeats, name = int(match[1]), match[2].replace("_", " ").strip()
            own = subset.model_copy(update={"caption": subset.caption or name or None})
            if repeats > 0:
                for path in images_in(sub, subset.recursive):
                    yield Found(path, captions_of(path, own, problems), repeats * subset.repeats, own)
        return
    places = (subset.masks, *subset.concept_masks.values())
    masks = [f for f in places if isinstance(f, Path) and f != folder and f.is_relative_to(folder)]
    for path in images_in(folder, subset.recursive):
        if not any(path.is_relative_to(place) for place in masks):
            yield Found(path, captions_of(path, subset, problems), subset.repeats, subset)


def from_metadata(path: Path, subset: SubsetConfig, problems: list[Problem]) -> list[Found]:
    """`metadata.jsonl`: one object a line with `file_name` and `text` (or `caption`, `prompt`), a text or a list;
    `metadata.csv` and `metadata.parquet`: the same as columns."""
    found = []
    for number, line in enumerate(rows_of(path, problems), 2 if path.suffix == ".csv" else 1):
        if isinstance(line, str) and not line.strip():
            continue
        try:
            row = json.loads(line) if isinstance(line, str) else line
            image = path.parent / row["file_name"]
        except (ValueError, KeyError, TypeError) as error:
            what = "no file_name" if isinstance(error, KeyError) else f"not an object with file_name ({error})"
            problems.append(Problem(f"{path}:{number}", what, 'lines like {"file_name": "01.png", "text": "a cat"}'))
            continue
        if image.is_file():
            found.append(Found(image, captions_in(row, image, subset, problems), subset.repeats, subset))
        else:
            problems.append(Problem(f"{path}:{number}", f'the image "{row["file_name"]}" does not exist'))
    return found


def rows_of(path: Path, problems: list[Problem]) -> Sequence[str | dict[str, Any]]:
    """The rows of a table of images; those of a `.jsonl` as lines."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            remedy = 'pip install "lorasmith[datasets]", or write it as metadata.jsonl'
            problems.append(Problem(str(path), ".parquet files need pyarrow, which is not here", remedy=remedy))
            return []
        try:
            return parquet.read_table(path).to_pylist()
        except ArrowException as error:
            problems.append(Problem(str(path), f"is not a parquet file that can be read ({error})"))
            return []
    lines = LINES.split(read_text(path, problems))
    return list(csv.DictReader(lines)) if path.suffix == ".csv" else lines


def captions_in(row: dict[str, Any], image: Path, subset: SubsetConfig, problems: list[Problem]) -> tuple[str, ...]:
    """The captions of a line of metadata; without any, those of a caption file or the fallback."""
    columns = (subset.caption_column,) if subset.caption_column else ("text", "caption", "prompt")
    given = next((row[k] for k in columns if row.get(k) is not None), None)
    if given is None:
        return captions_of(image, subset, problems)
    texts = given if isinstance(given, list) else [given]
    return tuple(str(text).strip() for text in texts)


def read_record(found: Found) -> ImageRecord | Problem:
    """Read and decode an image and its masks once, so that training never meets one that cannot be read."""
    subset, where = found.subset, found.path
    try:
        data = found.path.read_bytes()
        picture, alpha = decode(data)
        mask: Path | Literal["alpha"] | None = None
        mask_digest = ""
        if isinstance(subset.masks, Path):
            mask = mask_path(found.path, subset.masks.expanduser())
            if mask is None and subset.masks_for_all:
                what = f'there is no mask "{found.path.stem}.png" in {subset.masks}'
                remedy = "make one (lorasmith masks), or set masks_for_all = false to train such images whole"
                return Problem(str(found.path), what, remedy=remedy)
            if mask is not None:
                where = mask
                mask_digest = digest_of_mask(mask, picture.size)
        elif subset.masks == "alpha":
            mask = "alpha"
        concept_masks = []
        for word, folder in subset.concept_masks.items():
            if (own := mask_path(found.path, folder.expanduser())) is not None:
                where = own
                concept_masks.append((word, own, digest_of_mask(own, picture.size)))
    except OSError as error:
        return Problem(str(where), f"cannot be read ({error.strerror or error})", remedy=BAD_IMAGE)
    except ValueError as error:
        return Problem(str(where), str(error), remedy=BAD_IMAGE)
    return ImageRecord(
        path=found.path,
        captions=found.captions,
        repeats=found.repeats,
        size=picture.size,
        digest=hashlib.sha256(data).hexdigest(),
        loss_weight=subset.loss_weight,
        mask=mask,
        mask_digest=mask_digest,
        transforms=subset.transforms,
        resolution=None if subset.resolution is None else sides_of(subset.resolution),
        batch_size=subset.batch_size,
        buckets=subset.buckets,
        hold_out=subset.hold_out,
        masks_weigh=subset.masks_weigh,
        preserve=subset.preserve,
        resize=subset.resize,
        opaque=alpha is None,
        concept_masks=tuple(concept_masks),
    )


def digest_of_mask(path: Path, size: tuple[int, int]) -> str:
    """The SHA-256 of a mask's file, which must be one for an image of `size`. Raises OSError and ValueError."""
    data = path.read_bytes()
    decode_mask(data, size)
    return hashlib.sha256(data).hexdigest()


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """Image files of a folder in natural order; hidden files and folders are left out."""
    files = folder.rglob("*") if recursive else folder.iterdir()
    return natural(
        f
        for f in files
        if f.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in f.relative_to(folder).parts)
        and f.is_file()
    )


def natural(paths: Iterable[Path]) -> list[Path]:
    """Paths sorted so that 2.png comes before 10.png."""

    def key(path: Path) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", str(path).lower())
        return [(int(p), "") if i % 2 else (0, p) for i, p in enumerate(parts)], str(path)

    return sorted(paths, key=key)

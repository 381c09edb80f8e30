"""Finding and reading images with their captions and masks, and reporting everything that is wrong, before training."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lorasmith.core.errors import Problem
from lorasmith.data.captions import read_captions
from lorasmith.data.condition_images import decode_condition_image
from lorasmith.data.config import SubsetConfig, sides_of
from lorasmith.data.folder_contents import FolderContents, survey
from lorasmith.data.image_sizes import too_small
from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.images import decode
from lorasmith.data.listing import CLASS_FOLDER, images_in, natural
from lorasmith.data.mask_files import decode_mask, find_mask
from lorasmith.data.metadata import TABLE_NAMES, read_kohya_metadata, read_table
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark

BAD_IMAGE_REMEDY = "replace or remove it, or set data.skip_bad_images = true to train without it"


@dataclass(frozen=True)
class ScannedImage:
    """An image file with its captions and settings; the file itself has not been read yet."""

    path: Path
    captions: tuple[str, ...]
    repeats: int
    subset: SubsetConfig


@dataclass
class ScanResult:
    """The images of one or more subsets. `skipped`: bad images that are left out because the config says so;
    `problems`: what keeps a run from starting; `remarks`: what is probably not meant."""

    records: list[ImageRecord] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    contents: list[FolderContents] = field(default_factory=list)
    """What became of the files of each folder."""

    def add(self, other: ScanResult) -> None:
        """Append the result of another scan."""
        self.records += other.records
        self.skipped += other.skipped
        self.problems += other.problems
        self.remarks += other.remarks
        self.contents += other.contents


def scan(subset: SubsetConfig, key: str, skip_bad: bool) -> ScanResult:
    """All images of a subset in natural order, and what is wrong with them. `key`: the subset's key in the config."""
    listed, problems = list_images(subset, key)
    images = listed.images

    # Every image is decoded once, so that training never meets one that cannot be read.
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read_record, images))
    records = [result for result in results if isinstance(result, ImageRecord)]
    bad_images = [result for result in results if isinstance(result, Problem)]

    problems += unused_concept_masks(subset, key, records)
    problems += unused_condition_images(subset, key, records)
    result = ScanResult(records, [], problems + bad_images)
    if skip_bad:
        result = ScanResult(records, bad_images, problems)
        if images and not records:
            first = bad_images[0]
            what = f"none of the {len(images)} images can be read; {first.where}: {first.found}"
            problems.append(Problem(key, what))

    # Every file of a folder is used or named.
    source = subset.images.expanduser()
    if source.is_dir():
        with contextlib.suppress(OSError):  # then the images could not be listed either, which is a problem already
            contents = survey(source, [image.path for image in images], subset, key, listed.too_small)
            result.contents.append(contents)
            result.remarks += contents.remarks
    return result


@dataclass
class ListedImages:
    """The image files of a subset that are read, and those that `larger_than` leaves out."""

    images: list[ScannedImage] = field(default_factory=list)
    too_small: list[Path] = field(default_factory=list)


def find_images(subset: SubsetConfig, key: str) -> tuple[list[ScannedImage], list[Problem]]:
    """The image files of a subset with their captions, and what is wrong. `key`: the subset's key in the config."""
    listed, problems = list_images(subset, key)
    return listed.images, problems


def list_images(subset: SubsetConfig, key: str) -> tuple[ListedImages, list[Problem]]:
    """The image files of a subset with their captions, those that are too small, and what is wrong."""
    source = subset.images.expanduser()
    problems = missing_folders(subset, key)
    if not source.exists():
        problems.append(Problem(f"{key}.images", f'"{source}" does not exist', remedy="correct the path"))
        return ListedImages(), problems
    if subset.metadata is not None and not subset.metadata.expanduser().is_file():
        problems.append(Problem(f"{key}.metadata", f"{subset.metadata}: no such file", remedy="correct the path"))
        return ListedImages(), problems

    images: list[ScannedImage] = []
    try:
        images = _images_of_source(source, subset, problems)
    except OSError as error:
        what = f'"{error.filename or source}" cannot be read ({error.strerror})'
        problems.append(Problem(f"{key}.images", what, remedy="change its permissions"))

    listed = chosen_images(images, subset)

    # A source of which every image is too small is no mistake if others have larger ones.
    if not listed.images and not problems and not listed.too_small:
        suffixes = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        remedy = "name a folder with images, or set recursive = true to look into its sub-folders"
        problems.append(Problem(f"{key}.images", f'there are no images in "{source}"', f"files: {suffixes}", remedy))
    return listed, problems


def chosen_images(images: list[ScannedImage], subset: SubsetConfig) -> ListedImages:
    """The images that `larger_than` and `part` leave, with the captions that `caption_lines` leaves."""
    small = too_small([image.path for image in images], subset.larger_than)
    images = [image for image in images if image.path not in small]
    # Only after all captions are known, since they come from several kinds of sources.
    if subset.caption_lines == "first":
        images = [replace(image, captions=image.captions[:1]) for image in images]
    if subset.part is not None:
        start, end = subset.part
        images = images[start:end]
    return ListedImages(images, small)


def _images_of_source(source: Path, subset: SubsetConfig, problems: list[Problem]) -> list[ScannedImage]:
    """The images of an existing file or folder, by the kind of source that it is. Raises OSError."""
    if subset.metadata is not None:
        named = read_kohya_metadata(subset.metadata.expanduser(), source, problems)
        return [ScannedImage(path, captions, subset.repeats, subset) for path, captions in named]

    # A table of images, either the source itself or one that lies in the folder.
    table: Path | None = None
    if source.name in TABLE_NAMES or source.suffix in (".jsonl", ".parquet"):
        table = source
    elif source.is_dir():
        table = next((source / name for name in TABLE_NAMES if (source / name).is_file()), None)
    if table is not None:
        named = read_table(table, subset, problems)
        return [ScannedImage(path, captions, subset.repeats, subset) for path, captions in named]

    if source.is_file():
        return [ScannedImage(source, read_captions(source, subset, problems), subset.repeats, subset)]
    return _images_of_folder(source, subset, problems)


def _images_of_folder(folder: Path, subset: SubsetConfig, problems: list[Problem]) -> list[ScannedImage]:
    """Images directly in a folder (or also below it, if `recursive`), or in its class folders."""
    folders = natural(path for path in folder.iterdir() if path.is_dir())
    class_folders = [path for path in folders if CLASS_FOLDER.fullmatch(path.name)]
    has_classes = subset.class_folders is True
    if subset.class_folders == "auto" and class_folders:
        # Images beside such folders show that the numbers in their names mean something else.
        has_classes = not images_in(folder, recursive=False)
    if has_classes:
        return _images_of_class_folders(class_folders, subset, problems)

    mask_folders = _mask_folders_below(folder, subset)
    images: list[ScannedImage] = []
    for path in images_in(folder, subset.recursive):
        if any(path.is_relative_to(mask_folder) for mask_folder in mask_folders):
            continue
        captions = read_captions(path, subset, problems)
        images.append(ScannedImage(path, captions, subset.repeats, subset))
    return images


def _mask_folders_below(folder: Path, subset: SubsetConfig) -> list[Path]:
    """Folders of masks and of pictures of conditions that lie inside the folder of images; what is in them is not
    trained on."""
    mask_folders = [*subset.concept_masks.values(), *subset.condition_images.values()]
    if isinstance(subset.masks, Path):
        mask_folders.append(subset.masks)
    # Masks may also lie directly beside the images; then the folder itself must not be left out.
    return [path for path in mask_folders if path != folder and path.is_relative_to(folder)]


def _images_of_class_folders(
    folders: Iterable[Path], subset: SubsetConfig, problems: list[Problem]
) -> list[ScannedImage]:
    """Images of folders such as `10_cat dog`: repeated 10 times, with `cat dog` as fallback caption. Folders with 0
    repeats are left out."""
    images: list[ScannedImage] = []
    for folder in folders:
        match = CLASS_FOLDER.fullmatch(folder.name)
        assert match is not None
        repeats, class_name = int(match[1]), match[2].replace("_", " ").strip()
        if repeats == 0:
            continue
        # The class name is the fallback caption, unless the config gives one.
        class_subset = subset.model_copy(update={"caption": subset.caption or class_name or None})
        for path in images_in(folder, subset.recursive):
            captions = read_captions(path, class_subset, problems)
            images.append(ScannedImage(path, captions, repeats * subset.repeats, class_subset))
    return images


def missing_folders(subset: SubsetConfig, key: str) -> list[Problem]:
    """A problem for each folder of captions, masks or pictures of conditions that does not exist."""
    folders: dict[str, Path | str | None] = {"captions": subset.captions, "masks": subset.masks}
    for word, folder in subset.concept_masks.items():
        folders[f"concept_masks.{word}"] = folder
    for name, folder in subset.condition_images.items():
        folders[f"condition_images.{name}"] = folder
    return [
        Problem(f"{key}.{name}", f'"{folder}" is not a folder', remedy="correct the path")
        for name, folder in folders.items()
        if isinstance(folder, Path) and not folder.expanduser().is_dir()
    ]


def unused_concept_masks(subset: SubsetConfig, key: str, records: list[ImageRecord]) -> list[Problem]:
    """A problem for each folder of concept masks that has no mask of any image."""
    problems: list[Problem] = []
    for word, folder in subset.concept_masks.items():
        if not records or not folder.expanduser().is_dir():
            continue
        if not any(word in record.concepts for record in records):
            example = f"{records[0].path.stem}.png"
            what = f'{folder} has no mask of any of the {len(records)} images, such as "{example}"'
            problems.append(
                Problem(f"{key}.concept_masks.{word}", what, remedy="give the masks the names of their images")
            )
    return problems


def unused_condition_images(subset: SubsetConfig, key: str, records: list[ImageRecord]) -> list[Problem]:
    """A problem for each folder of pictures of a condition that has a picture of no image."""
    problems: list[Problem] = []
    for name, folder in subset.condition_images.items():
        if not records or not folder.expanduser().is_dir():
            continue
        if not any(name == known for record in records for known, _, _ in record.condition_images):
            example = f"{records[0].path.stem}.png"
            what = f'{folder} has no picture for any of the {len(records)} images, such as "{example}"'
            remedy = "give the pictures the names of their images"
            problems.append(Problem(f"{key}.condition_images.{name}", what, remedy=remedy))
    return problems


def read_record(image: ScannedImage) -> ImageRecord | Problem:
    """Read and decode an image, its masks and its pictures of conditions; a Problem if one of them cannot be read."""
    record = _read_image_and_masks(image)
    if isinstance(record, Problem):
        return record
    condition_images = read_condition_images(image, record.size)
    if isinstance(condition_images, Problem):
        return condition_images
    return replace(record, condition_images=tuple(condition_images))


def _read_image_and_masks(image: ScannedImage) -> ImageRecord | Problem:
    subset = image.subset
    file = image.path  # the file that is being read, for the message of an error
    mask: Path | Literal["alpha"] | None = None
    mask_digest = ""
    concept_masks: list[tuple[str, Path, str]] = []
    try:
        data = image.path.read_bytes()
        picture, alpha = decode(data)

        if isinstance(subset.masks, Path):
            mask = find_mask(image.path, subset.masks.expanduser())
            if mask is None and subset.masks_for_all:
                what = f'there is no mask "{image.path.stem}.png" in {subset.masks}'
                remedy = "make one (lorasmith masks), or set masks_for_all = false to train such images whole"
                return Problem(str(image.path), what, remedy=remedy)
            if mask is not None:
                file = mask
                mask_digest = checked_mask_digest(mask, picture.size)
        elif subset.masks == "alpha":
            mask = "alpha"

        for word, folder in subset.concept_masks.items():
            concept_mask = find_mask(image.path, folder.expanduser())
            if concept_mask is not None:
                file = concept_mask
                concept_masks.append((word, concept_mask, checked_mask_digest(concept_mask, picture.size)))
    except OSError as error:
        return Problem(str(file), f"cannot be read ({error.strerror or error})", remedy=BAD_IMAGE_REMEDY)
    except ValueError as error:
        return Problem(str(file), str(error), remedy=BAD_IMAGE_REMEDY)

    return ImageRecord(
        path=image.path,
        captions=image.captions,
        repeats=image.repeats,
        size=picture.size,
        digest=hashlib.sha256(data).hexdigest(),
        loss_weight=subset.loss_weight,
        mask=mask,
        mask_digest=mask_digest,
        transforms=subset.transforms,
        resolution=None if subset.resolution is None else sides_of(subset.resolution),
        batch_size=subset.batch_size,
        buckets=subset.buckets,
        hold_out=subset.may_be_held_out,
        masks_weigh=subset.masks_weigh,
        preserve=subset.preserve,
        resize=subset.resize,
        opaque=alpha is None,
        concept_masks=tuple(concept_masks),
    )


def read_condition_images(image: ScannedImage, size: tuple[int, int]) -> list[tuple[str, Path, str]] | Problem:
    """For each condition that the image has a picture of, its name, the file and the file's SHA-256; a Problem if one
    cannot be read. `size`: (width, height) of the image."""
    found: list[tuple[str, Path, str]] = []
    for name, folder in image.subset.condition_images.items():
        path = find_mask(image.path, folder.expanduser())
        if path is None:
            continue
        try:
            data = path.read_bytes()
            decode_condition_image(data, size)
        except OSError as error:
            return Problem(str(path), f"cannot be read ({error.strerror or error})", remedy=BAD_IMAGE_REMEDY)
        except ValueError as error:
            return Problem(str(path), str(error), remedy=BAD_IMAGE_REMEDY)
        found.append((name, path, hashlib.sha256(data).hexdigest()))
    return found


def checked_mask_digest(path: Path, size: tuple[int, int]) -> str:
    """The SHA-256 of a mask's file. Raises OSError, and ValueError if it is not a mask for an image of `size`."""
    data = path.read_bytes()
    decode_mask(data, size)
    return hashlib.sha256(data).hexdigest()

"""What became of each file of a data folder: used as image, caption, mask or table, or not used, and then why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.embedded_images import is_embedded
from lorasmith.data.captions import find_caption_file
from lorasmith.data.config import NO_CAPTION_FILES, SubsetConfig, sides_of
from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.listing import CLASS_FOLDER, folders_below, images_in, is_hidden, is_mask, natural
from lorasmith.data.mask_files import MASK_FOLDERS, find_mask, masked_stem
from lorasmith.data.metadata import TABLE_NAMES
from lorasmith.data.remarks import Remark, Severity, count_of, list_names

UNREAD_PICTURES = frozenset(
    {
        *(".psd", ".psb", ".xcf", ".kra", ".clip", ".svg", ".ai", ".eps", ".pdf", ".exr", ".hdr", ".pfm", ".dds"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
        *(".mp4", ".mov", ".webm", ".avi", ".mkv"),
    }
)
"""Suffixes of pictures and films that are not read."""
CAPTION_LIKE = frozenset({".txt", ".caption", ".cap", ".tags", ".tag", ".json", ".text"})
"""Suffixes that captions of other programs have."""
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
"""Files that an operating system puts into folders of pictures; they are not counted."""


@dataclass
class FolderContents:
    """The files of one source of images by their use, and remarks on those that are not used."""

    folder: Path
    used: dict[str, int] = field(default_factory=dict)
    """`images`, `captions`, `masks` and `tables` to the number of files."""
    unused: list[Path] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """As JSON data."""
        unused = [path.relative_to(self.folder).as_posix() for path in self.unused]
        files = sum(self.used.values()) + len(unused)
        return {"folder": str(self.folder), "files": files, **self.used, "unused": unused}

    def remark(self, kind: str, text: str, severity: Severity = "warning") -> None:
        """Add a remark on the folder."""
        self.remarks.append(Remark(self.folder, kind, text, severity))


def survey(
    folder: Path, images: Sequence[Path], subset: SubsetConfig, key: str, too_small: Sequence[Path] = ()
) -> FolderContents:
    """What became of the files of a folder of which `images` are read. `key`: the subset's key in the config.
    `too_small`: images that `larger_than` leaves out.

    Raises OSError if the folder cannot be read.
    """
    contents = FolderContents(folder)
    in_class_folders = any(image.parent != folder for image in images) and not subset.recursive
    searched = searched_folders(folder, images, subset, in_class_folders)
    files = natural(file for searched_folder in searched for file in searched_folder.iterdir() if is_listed(file))

    uses = {
        "images": set(images),
        # The captions and masks of small images are not those of no image.
        "captions": caption_files([*images, *too_small], subset),
        "masks": masks_of([*images, *too_small], subset),
        "tables": {file for file in files if is_caption_table(file, subset)},
    }
    count_uses(contents, files, uses)

    remark_on_small_images(contents, too_small, subset)
    by_table = subset.metadata is not None or len(uses["tables"]) > 0
    remark_on_pictures(contents, subset, in_class_folders, by_table, too_small)
    remark_on_masks(contents, images, key)
    if not by_table and subset.part is None:
        remark_on_captions(contents, images, uses["captions"], subset, key)
    if not subset.recursive:
        remark_on_folders(contents, searched, images, subset, key)
    return contents


def is_caption_table(file: Path, subset: SubsetConfig) -> bool:
    """Whether a file is a table of captions that is read."""
    return file.name in TABLE_NAMES or file == subset.metadata


def caption_files(images: Iterable[Path], subset: SubsetConfig) -> set[Path]:
    """The caption files that are read."""
    found = (find_caption_file(image, subset) for image in images)
    return {path for path in found if path is not None}


def count_uses(contents: FolderContents, files: Iterable[Path], uses: Mapping[str, set[Path]]) -> None:
    """Note of each file its use, or that it has none. A file counts once, as the first of its uses."""
    for file in files:
        use = next((name for name, paths in uses.items() if file in paths), None)
        if use is None:
            contents.unused.append(file)
        else:
            contents.used[use] = contents.used.get(use, 0) + 1


def searched_folders(folder: Path, images: Sequence[Path], subset: SubsetConfig, in_class_folders: bool) -> list[Path]:
    """The folders in which images were looked for, without those of masks."""
    if subset.recursive:
        masks = [path.expanduser() for path in mask_folders(subset) if path.expanduser() != folder]
        below = folders_below(folder)
        return [path for path in below if not any(path.is_relative_to(mask_folder) for mask_folder in masks)]
    searched = dict.fromkeys([folder, *(image.parent for image in images)])
    if in_class_folders or subset.class_folders is True:
        searched |= dict.fromkeys(class_folders_of(folder))
    return [path for path in searched if path.is_dir()]


def class_folders_of(folder: Path) -> list[Path]:
    """The class folders of a folder, without those that are switched off by 0 repeats."""
    matches = [(path, CLASS_FOLDER.fullmatch(path.name)) for path in natural(folder.iterdir()) if path.is_dir()]
    return [path for path, match in matches if match is not None and int(match[1]) > 0]


def mask_folders(subset: SubsetConfig) -> list[Path]:
    """The folders of masks and of pictures of conditions that the config names."""
    folders = (subset.masks, *subset.concept_masks.values(), *subset.condition_images.values())
    return [path for path in folders if isinstance(path, Path)]


def masks_of(images: Iterable[Path], subset: SubsetConfig) -> set[Path]:
    """The masks of the images."""
    folders = [path.expanduser() for path in mask_folders(subset)]
    return {mask for image in images for folder in folders if (mask := find_mask(image, folder)) is not None}


def is_listed(file: Path) -> bool:
    """Whether a file counts: hidden ones and those of the operating system do not; a broken link does."""
    if is_hidden(file) or file.name.lower() in SYSTEM_FILES:
        return False
    return file.is_file() or (file.is_symlink() and not file.exists())


def remark_on_pictures(
    contents: FolderContents,
    subset: SubsetConfig,
    in_class_folders: bool,
    by_table: bool,
    too_small: Sequence[Path],
) -> None:
    """Pictures that are not read: broken links, formats, and those that the config leaves out."""
    broken = [file for file in contents.unused if file.is_symlink() and not file.exists()]
    if broken:
        what = f"{count_of(len(broken), 'link leads', 'links lead')} to files that do not exist: {list_names(broken)}"
        contents.remark("broken_link", what, "serious")

    unread = [file for file in contents.unused if file.suffix.lower() in UNREAD_PICTURES]
    if unread:
        what = f"{count_of(len(unread), 'file')} of a kind that is not read: {list_names(unread)}; save as PNG or JPEG"
        contents.remark("format", what)

    if subset.part is None and (by_table or in_class_folders):
        remark_on_left_out_images(contents, by_table, set(too_small))


def remark_on_left_out_images(contents: FolderContents, by_table: bool, too_small: set[Path]) -> None:
    """Images that are not in the table of captions, or that lie beside class folders."""
    unused = [file for file in contents.unused if file not in too_small]
    images = [file for file in unused if file.suffix.lower() in SUFFIXES and file.exists()]
    left_out = [file for file in images if masked_stem(file.stem) is None]
    if left_out:
        where = "not in the table of captions" if by_table else "beside the class folders"
        contents.remark("left_out", f"{count_of(len(left_out), 'image')} {where}, not read: {list_names(left_out)}")


def remark_on_small_images(contents: FolderContents, too_small: Sequence[Path], subset: SubsetConfig) -> None:
    """Images that `larger_than` leaves out."""
    if too_small and subset.larger_than is not None:
        width, height = sides_of(subset.larger_than)
        what = (
            f"{count_of(len(too_small), 'image')} left out by larger_than, with at most as many pixels as {width} x "
            f"{height}: {list_names(list(too_small))}"
        )
        contents.remark("small", what, "note")


def remark_on_masks(contents: FolderContents, images: Sequence[Path], key: str) -> None:
    """Masks beside images, which no key names."""
    stems = {(image.parent, image.stem) for image in images}
    masks = [file for file in contents.unused if file.suffix.lower() in SUFFIXES and is_mask(file, stems)]
    if masks:
        what = (
            f"{count_of(len(masks), 'file looks', 'files look')} like masks of images, and are neither trained on nor "
            f'used as masks: {list_names(masks)}. Set {key}.masks = "{masks[0].parent}", or rename them if they are '
            "images"
        )
        contents.remark("mask", what, "serious")


def unread_captions(
    contents: FolderContents, images: Sequence[Path], captions: set[Path], subset: SubsetConfig
) -> tuple[list[Path], list[Path]]:
    """Files that look like captions: those of images without a caption, and those of no image."""
    by_stem = {(image.parent, image.stem): image for image in images}
    by_name = {(image.parent, image.name): image for image in images}
    captioned = {(caption.parent, caption.stem) for caption in captions}
    endings = CAPTION_LIKE | set(subset.caption_extension)
    misnamed: list[Path] = []
    without_image: list[Path] = []
    for file in contents.unused:
        ending = file.suffix.lower()
        image = by_name.get((file.parent, file.stem)) or by_stem.get((file.parent, file.stem))
        if image is None:
            if ending in subset.caption_extension:
                without_image.append(file)
        elif ending in endings and (image.parent, image.stem) not in captioned and subset.captions is None:
            misnamed.append(file)
    return misnamed, without_image


def remark_on_captions(
    contents: FolderContents, images: Sequence[Path], captions: set[Path], subset: SubsetConfig, key: str
) -> None:
    """Captions under names that are not read, and captions of no image."""
    misnamed, without_image = unread_captions(contents, images, captions, subset)
    if misnamed and subset.caption_extension == NO_CAPTION_FILES:
        what = f"this run reads no caption files; beside the images are {list_names(misnamed)}"
        contents.remark("caption_name", what)
    elif misnamed:
        extension = subset.caption_extension[0]
        what = (
            f"{count_of(len(misnamed), 'file looks like a caption', 'files look like captions')} of images without "
            f"one, and {'is' if len(misnamed) == 1 else 'are'} not read: {list_names(misnamed)}. A caption of "
            f"1.png is 1{extension}; other endings: {key}.caption_extension"
        )
        contents.remark("caption_name", what, "serious")
    if without_image:
        what = f"{count_of(len(without_image), 'caption')} without an image: {list_names(without_image)}"
        contents.remark("caption_name", what)


def folders_that_are_not_read(folder: Path, searched: Sequence[Path], subset: SubsetConfig) -> list[Path]:
    """Sub-folders that are neither searched for images nor named in the config."""
    in_config = [path.expanduser() for path in [*mask_folders(subset), subset.captions] if path is not None]
    sub_folders = natural(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    return [path for path in sub_folders if path not in searched and path not in in_config]


def remark_on_hidden_classes(
    contents: FolderContents, hidden_classes: Sequence[Path], images: Sequence[Path], key: str
) -> None:
    """Class folders that are not read because images lie beside them."""
    if not hidden_classes or not images:
        return
    names = list_names([f"{path.name} ({len(images_in(path, recursive=False))})" for path in hidden_classes])
    what = (
        f"images beside class folders hide them: {names} not read because of {list_names(list(images))}. Set "
        f"{key}.class_folders = true to read the class folders, or false to leave them out"
    )
    contents.remark("class_folders", what, "serious")


def remark_on_folders(
    contents: FolderContents, searched: Sequence[Path], images: Sequence[Path], subset: SubsetConfig, key: str
) -> None:
    """Sub-folders with images that are not read."""
    stems = {image.stem for image in images}
    hidden_classes: list[Path] = []
    others: list[Path] = []
    for path in folders_that_are_not_read(contents.folder, searched, subset):
        pictures = images_in(path, recursive=False)
        class_folder = CLASS_FOLDER.fullmatch(path.name)
        # what the package holds is there for whoever wants it; nobody forgot it
        if not pictures or is_embedded(path):
            continue
        if path.name.lower() in MASK_FOLDERS and not stems.isdisjoint(picture.stem for picture in pictures):
            contents.remark("mask", f'the masks in {path.name} are not used; set {key}.masks = "{path}"')
        elif class_folder is None:
            others.append(path)
        elif int(class_folder[1]) > 0:
            hidden_classes.append(path)

    if subset.class_folders == "auto":
        remark_on_hidden_classes(contents, hidden_classes, images, key)
    if others:
        what = f"images in sub-folders are not read: {list_names(others)}; {key}.recursive = true reads them"
        contents.remark("sub_folder", what)

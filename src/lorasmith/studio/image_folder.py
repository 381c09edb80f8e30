"""A folder of training images as the studio shows and changes it: captions, masks, sizes and buckets.

Which file is an image, a caption or a mask is decided by the functions that training uses.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.core.config import read_table
from lorasmith.core.embedded_bases import DEFAULT_BASE
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.core.store import write_text, write_with
from lorasmith.data.buckets import Buckets
from lorasmith.data.captioners import Captioner
from lorasmith.data.captions import BYTE_ORDER_MARKS, find_caption_file
from lorasmith.data.config import BucketConfig, SubsetConfig
from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.images import decode, register_plugins
from lorasmith.data.listing import CLASS_FOLDER, images_in
from lorasmith.data.mask_files import MASK_FOLDERS, decode_mask, find_mask, masked_stem
from lorasmith.data.metadata import TABLE_NAMES
from lorasmith.studio import caption_table
from lorasmith.studio.caption_table import CaptionTable
from lorasmith.studio.process import run_json
from lorasmith.studio.run_list import EVENTS
from lorasmith.studio.tokens import LIMIT, count_tokens

LONGEST_CAPTION = 100_000
"""Characters of a caption file that is written."""
LARGEST_CAPTION_FILE = 1 << 20
EXIF_ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations in which width and height change places."""
DEEPEST = 8
MASK_FOLDER = "masks"
DATA_KEYS = ("trigger", "data", "seed")
"""Settings of a config that say what is trained on."""
CHECKING = threading.Lock()
"""One check at a time: each is a process with torch in it."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images. `masks`: the folder of their masks."""

    folder: Path
    masks: Path

    @classmethod
    def of(cls, folder: Path) -> ImageFolder:
        """A folder of images with its masks where `lorasmith masks` writes them."""
        return cls(folder, folder / MASK_FOLDER)

    @cached_property
    def subset(self) -> SubsetConfig:
        return SubsetConfig(images=self.folder)

    def images(self) -> list[Path]:
        """The image files in natural order."""
        return images_in(self.folder, recursive=False)

    def image(self, name: str) -> Path:
        """The image of a name. Raises LorasmithError if there is none."""
        path = self.folder / name
        if "/" in name or "\\" in name or path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise LorasmithError(f"{name}: there is no such image in {self.folder}")
        return path

    def table(self) -> Path | None:
        """A table that holds the captions of the folder, in place of caption files."""
        return next((self.folder / name for name in TABLE_NAMES if (self.folder / name).is_file()), None)

    @property
    def can_write(self) -> bool:
        """Whether the captions can be changed: in files beside the images, or in metadata.jsonl."""
        table = self.table()
        return table is None or table.name == caption_table.NAME

    @cached_property
    def _captions(self) -> CaptionTable | None:
        """The captions in metadata.jsonl; None if there is no such table."""
        table = self.table()
        return CaptionTable(table) if table is not None and table.name == caption_table.NAME else None

    def caption(self, image: Path) -> str | None:
        """The caption of an image: in metadata.jsonl, else the text of its caption file as it is; None without one."""
        in_table = None if self._captions is None else self._captions.caption(image.name)
        if in_table is not None:
            return in_table
        path = find_caption_file(image, self.subset)
        if path is None or path.stat().st_size > LARGEST_CAPTION_FILE:
            return None
        data = path.read_bytes()
        encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
        return data.decode(encoding, errors="replace").replace("\r\n", "\n").rstrip("\n")

    def list(self, start: int = 0, end: int | None = None) -> list[dict[str, Any]]:
        """Each image with its caption, of all or of those from `start` up to `end`; sizes are read when they are
        shown."""
        return [self.describe(path) for path in self.images()[start:end]]

    def describe(self, image: Path) -> dict[str, Any]:
        """Name, caption and the tokens of the caption."""
        try:
            caption = self.caption(image)
        except OSError:
            caption = None
        return {"name": image.name, "caption": caption, "tokens": None if caption is None else count_tokens(caption)}

    def details(self, names: Sequence[str], resolution: int) -> list[dict[str, Any]]:
        """Size, bucket, crop and mask of some images: what training will see at a resolution."""
        buckets = Buckets.of((resolution, resolution), BucketConfig())
        return [self._detail(name, buckets) for name in names]

    def _detail(self, name: str, buckets: Buckets) -> dict[str, Any]:
        detail: dict[str, Any] = {"name": name}
        try:
            image = self.image(name)
            detail["changed"] = image.stat().st_mtime_ns
            size = image_size(image)
        except (LorasmithError, OSError, ValueError) as error:
            return {**detail, "problem": str(error)}
        placement = buckets.place(size)
        left, top, right, bottom = placement.box()
        width, height = placement.resized
        detail.update(
            size=size,
            bucket=placement.bucket,
            lost=round(placement.lost, 3),
            # shares of the image, so that they fit a picture of any size
            crop=[left / width, top / height, right / width, bottom / height],
        )
        mask = self.mask_of(image)
        if mask is not None:
            detail["mask"] = mask.stat().st_mtime_ns
        return detail

    def mask_of(self, image: Path) -> Path | None:
        """The mask of an image: in the folder of masks, else beside it."""
        return find_mask(image, self.masks) or find_mask(image, image.parent)

    def mask_picture(self, name: str) -> bytes:
        """The mask of an image as a grey PNG of the image's size. Raises LorasmithError if it cannot be read."""
        image = self.image(name)
        mask = self.mask_of(image)
        if mask is None:
            raise LorasmithError(f"{name}: has no mask")
        try:
            grey = decode_mask(mask.read_bytes(), image_size(image))
        except ValueError as error:
            raise LorasmithError(f"{mask.name}: {error}") from None
        return png(grey)

    def write_mask(self, name: str, data: bytes) -> Path:
        """Write a painted mask, a picture of the image's aspect ratio.

        Raises LorasmithError if it is something else.
        """
        image = self.image(name)
        try:
            grey = decode_mask(data, decode(data)[0].size)
            decode_mask(data, image_size(image))
        except ValueError as error:
            raise LorasmithError(f"the mask of {name}: {error}") from None
        path = find_mask(image, self.masks) or self.masks / f"{image.stem}.png"
        # the mask may be a JPEG of another program, which would blur the edges
        path = path.with_suffix(".png")
        write_with(path, lambda target: grey.save(target, format="PNG"))
        return path

    def remove_mask(self, name: str) -> None:
        """Delete the mask of an image in the folder of masks."""
        mask = find_mask(self.image(name), self.masks)
        if mask is not None:
            mask.unlink()

    def write_captions(self, changes: Iterable[dict[str, Any]]) -> None:
        """Write captions: `name`, `before` as the page knows it, `after`; None stands for no file.

        Nothing is written if one of the files is not as the page knows it: somebody else has changed it since. Raises
        LorasmithError then.
        """
        if not self.can_write:
            raise LorasmithError(f"the captions of {self.folder} are in {self.table()}; change them there")
        plan: list[tuple[Path, Path | None, str | None]] = []
        for change in changes:
            name, after = str(change.get("name")), change.get("after")
            if after is not None and (not isinstance(after, str) or len(after) > LONGEST_CAPTION or "\0" in after):
                raise LorasmithError(f"{name}: the caption is not a text of at most {LONGEST_CAPTION:,} characters")
            image = self.image(name)
            if self.caption(image) != change.get("before"):
                raise LorasmithError(
                    f"{name}: the caption has been changed elsewhere since the page was loaded. Nothing was written; "
                    "reload the page."
                )
            plan.append((image, find_caption_file(image, self.subset), after))

        if self._captions is not None:
            self._captions.change({image.name: after for image, _, after in plan})
        else:
            write_files(plan)


def write_files(plan: Sequence[tuple[Path, Path | None, str | None]]) -> None:
    """Write captions beside images: the image, its caption file if there is one, and the caption; None deletes it."""
    for image, file, after in plan:
        if after is not None:
            write_text(file or image.with_suffix(".txt"), after + "\n")
        elif file is not None:
            file.unlink()


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as training sees them, from the header of the file. Raises ValueError if it is no picture."""
    register_plugins()
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = image.getexif().get(EXIF_ORIENTATION)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    return (height, width) if orientation in TURNED else (width, height)


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def find_image_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below a root that hold images, with the names of the images, without folders of runs and of masks."""
    depth = len(root.parts)
    for parent, names, files in os.walk(root):
        path = Path(parent)
        is_mask_folder = path.name.lower() in MASK_FOLDERS and path != root
        if EVENTS in files or is_mask_folder or len(path.parts) - depth >= DEEPEST:
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith("."))
        images = sorted(name for name in files if is_image_name(name))
        if images:
            yield path, images


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name, and not the mask of another one."""
    stem, suffix = os.path.splitext(name)
    return suffix.lower() in SUFFIXES and not name.startswith(".") and masked_stem(stem) is None


def find_captioners(root: Path) -> Iterator[tuple[Path, str]]:
    """Folders below a root that hold a captioning or a tagging model, with its kind."""
    kinds = registered(Captioner)
    depth = len(root.parts)
    for parent, names, files in os.walk(root):
        path = Path(parent)
        if EVENTS in files or len(path.parts) - depth >= DEEPEST:
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith("."))
        for kind, captioner in kinds.items():
            if captioner.recognises(path):
                yield path, kind


def repeats_of(folder: Path) -> int:
    """How often the images of a folder named like `10_cat` are repeated."""
    match = CLASS_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else 1


def check_folder(folder: Path, resolution: int, trigger: str) -> dict[str, Any]:
    """What `lorasmith check` says of a folder that is trained on with default settings: remarks and files not used."""
    data = {"images": str(folder), "resolution": resolution}
    return check_data({"trigger": trigger.split(), "data": data})


def check_config(config: Path) -> dict[str, Any]:
    """What `lorasmith check` says of the data of a config.

    Only what concerns the data is taken from the config: it may be of somebody else's run, and a config can name code
    to import.
    """
    table = read_table(config)
    return check_data({key: table[key] for key in DATA_KEYS if key in table})


def check_data(settings: dict[str, Any]) -> dict[str, Any]:
    """The remarks of `lorasmith check` on the data of some settings: `remarks`, `errors`, and files not used."""
    # the tiny base is part of the package; of a base, remarks on data need the tokenizer only, which is the same
    table = {**settings, "base": DEFAULT_BASE}
    if isinstance(table.get("data"), dict):
        table["data"] = {**table["data"], "skip_bad_images": True}
    with CHECKING, tempfile.TemporaryDirectory(prefix="lorasmith-studio-") as temporary:
        config = Path(temporary) / "config.json"
        config.write_text(json.dumps({**table, "output": str(Path(temporary) / "run")}, default=str), encoding="utf-8")
        result = run_json(["check", str(config)])
    data = result.get("data") or {}
    return {
        "remarks": [
            {"file": str(r.get("path")), "kind": r.get("kind"), "text": r.get("text"), "severity": r.get("severity")}
            for r in result.get("images") or []
        ],
        "errors": [e for e in result.get("errors") or [] if e.get("where") not in ("output", "base")],
        "unused": [name for contents in data.get("files") or [] for name in contents.get("unused") or []],
        "limit": LIMIT,
    }

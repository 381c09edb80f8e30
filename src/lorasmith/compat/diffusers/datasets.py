"""The images of a diffusers script: a folder, or a data set that the library `datasets` reads into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.compat.diffusers.shared import Table, Values
from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.config import SubsetConfig
from lorasmith.data.listing import folders_below
from lorasmith.data.metadata import TABLE_NAMES

Download = Callable[[Progress | None], None]


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a script are."""

    subsets: list[Table]
    """Our subsets of them."""
    count: int | None
    """How many images they have; None if that is known only when they are downloaded."""
    download: Download | None = None
    """Stores the images in the folder of the only subset, before training."""


def find_images(values: Values, folder_option: str, caption: str | None) -> ImageSource:
    """The images of a folder or of a data set. Raises LorasmithError unless exactly one of them is named.

    `folder_option`: the option that names a folder. `caption`: of images without their own.
    """
    name, folder = values.get("dataset_name"), values.get(folder_option)
    if bool(name) == bool(folder):
        raise LorasmithError(f"give one of --{folder_option} and --dataset_name")
    source = Path(str(folder or name)).expanduser()
    subset: Table = {}
    if caption is not None:
        subset["caption"] = caption

    # A hub id. Its images are stored beside the run's folder.
    if not folder and not source.is_dir():
        output = Path(values["output_dir"])
        target = output.with_name(f"{output.name}-images")
        arguments = {"path": str(name), "name": values.get("dataset_config_name")}
        return ImageSource([subset | {"images": str(target)}], None, download_job(values, arguments, target))
    if not source.is_dir():
        raise LorasmithError(f"--{folder_option} {folder}: no such folder")
    # The DreamBooth scripts look into an instance folder only, not below it.
    is_flat = folder_option == "instance_data_dir" and bool(folder)
    return images_of_folder(values, source, subset, is_flat, is_data_set=not folder)


def images_of_folder(values: Values, source: Path, subset: Table, is_flat: bool, is_data_set: bool) -> ImageSource:
    """The images of a local folder. `subset`: what its subsets share; `is_flat`: folders in it are not looked into;
    `is_data_set`: it is named as a data set."""
    # Parquet shards contain images and captions; metadata.parquet contains captions only.
    shards = sorted(file for file in source.rglob("*.parquet") if file.name != "metadata.parquet")
    if shards:
        target = source / "lorasmith-images"
        arguments = {"path": "parquet", "data_files": [str(shard) for shard in shards]}
        return ImageSource([subset | {"images": str(target)}], None, download_job(values, arguments, target))

    if values.get("caption_column"):
        subset["caption_column"] = values["caption_column"]
    subset["images"] = str(source)
    subsets = [subset] if is_flat else imagefolder_subsets(source, subset, is_data_set)
    limit_images(subsets, values.get("max_train_samples"))
    return ImageSource(subsets, count_images_of(subsets))


def imagefolder_subsets(source: Path, shared: Table, is_data_set: bool) -> list[Table]:
    """The subsets of a folder in the layout `imagefolder` of the library `datasets`.

    Images may lie in folders of any depth. Each metadata table names the images below its own folder. `is_data_set`:
    the folder is one whole data set, of which only the part "train" is used, if it has parts.
    """
    root = source / "train" if is_data_set and (source / "train").is_dir() else source
    folders = folders_below(root)
    tables = [folder / name for folder in folders for name in TABLE_NAMES if (folder / name).is_file()]
    # The table of all parts lies above them.
    if not tables and root != source:
        tables = [source / name for name in TABLE_NAMES if (source / name).is_file()]
    if tables:
        return [shared | {"images": str(table)} for table in tables]
    return [shared | {"images": str(root), "recursive": True, "class_folders": False}]


def limit_images(subsets: list[Table], limit: int | None) -> None:
    """Use only the first `limit` images. Raises LorasmithError if they are in several tables."""
    if limit is None:
        return
    if len(subsets) > 1:
        raise LorasmithError(f"--max_train_samples: the images are in {len(subsets)} metadata tables; write one table")
    subsets[0]["part"] = [0, limit]


def count_images_of(subsets: list[Table]) -> int:
    """The number of images of subsets; images that cannot be read count, since they stop the run later."""
    from lorasmith.data.scan import find_images as list_images

    count = 0
    for subset in subsets:
        images, problems = list_images(validate(SubsetConfig, subset, "the options"), "data")
        if problems:
            raise ConfigError(problems, "the data")
        count += len(images)
    return count


def download_job(values: Values, arguments: dict[str, Any], target: Path) -> Download:
    """A function that streams the images and captions of a data set into the folder `target`, once.

    After an interruption it continues after the images that are there. `arguments`: of `datasets.load_dataset`.
    """

    def download(progress: Progress | None) -> None:
        metadata = target / "metadata.jsonl"
        # Images of an earlier, interrupted download are not downloaded again.
        existing = len(metadata.read_text(encoding="utf-8").splitlines()) if metadata.is_file() else 0
        rows = open_data_set(arguments, skip=existing)
        for option in ("image_column", "caption_column"):
            check_column(option, values.get(option), rows.column_names)
        target.mkdir(parents=True, exist_ok=True)
        if progress is not None:
            progress.say(f"reading {arguments['path']} into {target}")

        # The images are stored as PNG, so that they are exactly those of the data set.
        limit = values.get("max_train_samples")
        caption_column = values.get("caption_column") or "text"
        with metadata.open("a", encoding="utf-8") as lines:
            for index, row in enumerate(rows, existing):
                if limit is not None and index >= limit:
                    break

                # The line follows the image, so that every line stands for a complete image.
                entry = {"file_name": f"{index:08d}.png"}
                row[values["image_column"]].convert("RGB").save(target / entry["file_name"])
                text = row.get(caption_column)
                if text is not None:
                    entry["text"] = text
                lines.write(json.dumps(entry) + "\n")

    return download


def open_data_set(arguments: dict[str, Any], skip: int) -> Any:
    """The rows of a data set's part "train", without the first `skip`, as an iterable that streams them."""
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LorasmithError(
            'data sets of the hub and .parquet files require: pip install "lorasmith[datasets]"'
        ) from None
    try:
        return load_dataset(**arguments, split="train", streaming=True).skip(skip)
    except (OSError, ValueError) as error:
        # It does not exist, there is no network, no part "train", or the configuration is unknown.
        raise LorasmithError(f"the data set {arguments['path']} cannot be read: {error}") from None


def check_column(option: str, name: str | None, columns: list[str] | None) -> None:
    """Raises LorasmithError if the data set has no column of that name."""
    if name is not None and columns is not None and name not in columns:
        raise LorasmithError(f'--{option}: the data set has no column "{name}"; it has {", ".join(columns)}')

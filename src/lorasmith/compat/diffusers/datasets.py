"""The images of a diffusers script: a folder, or a data set that the library `datasets` reads into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasmith.compat.diffusers.shared import Table, Values
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress

Download = Callable[[Progress | None], None]


def find_images(values: Values, folder_option: str, caption: str | None) -> tuple[Table, Download | None]:
    """One of our subsets, and a function that downloads its images first if they are not in a folder.

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
        subset["images"] = str(target)
        arguments = {"path": str(name), "name": values.get("dataset_config_name")}
        return subset, download_job(values, arguments, target)

    # A local folder of parquet shards, which contain images and captions; metadata.parquet contains captions only.
    shards = sorted(file for file in source.rglob("*.parquet") if file.name != "metadata.parquet")
    if shards:
        target = source / "lorasmith-images"
        subset["images"] = str(target)
        arguments = {"path": "parquet", "data_files": [str(shard) for shard in shards]}
        return subset, download_job(values, arguments, target)

    # A local folder of images.
    if values.get("caption_column"):
        subset["caption_column"] = values["caption_column"]
    subset["images"] = str(source)
    return subset, None


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

"""Where the pictures of a diffusers script are: a folder, or a data set that `datasets` reads into one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasmith.compat.diffusers.shared import Table
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress

Download = Callable[[Progress | None], None]


def images_of(v: Table, folder_option: str, caption: str | None) -> tuple[Table, Download | None]:
    """A subset of ours, and what fetches its pictures first if they are not in a folder."""
    name, folder = v.get("dataset_name"), v.get(folder_option)
    if bool(name) == bool(folder):
        raise LorasmithError(f"give one of --{folder_option} and --dataset_name")
    place = Path(str(folder or name)).expanduser()
    own: Table = {} if caption is None else {"caption": caption}
    if folder or place.is_dir():
        shards = sorted(p for p in place.rglob("*.parquet") if p.name != "metadata.parquet")
        if shards:
            target = place / "lorasmith-images"
            return own | {"images": str(target)}, fetching(
                v, {"path": "parquet", "data_files": [str(s) for s in shards]}, target
            )
        if v.get("caption_column"):
            own["caption_column"] = v["caption_column"]
        return own | {"images": str(place)}, None
    target = Path(v["output_dir"]).with_name(f"{Path(v['output_dir']).name}-images")
    return own | {"images": str(target)}, fetching(v, {"path": str(name), "name": v.get("dataset_config_name")}, target)


def fetching(v: Table, source: dict[str, Any], target: Path) -> Download:
    """What streams a data set's pictures and captions into a folder, once; a stop leaves what is there to be used."""

    def fetch(progress: Progress | None) -> None:
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise LorasmithError(
                'data sets of the hub and .parquet files need: pip install "lorasmith[datasets]"'
            ) from None
        table = target / "metadata.jsonl"
        target.mkdir(parents=True, exist_ok=True)
        done = len(table.read_text(encoding="utf-8").splitlines()) if table.is_file() else 0
        try:
            rows = load_dataset(**source, split="train", streaming=True).skip(done)
        except (OSError, ValueError) as error:  # not there, no network, no "train" part, an unknown configuration
            raise LorasmithError(f"the data set {source['path']} cannot be read: {error}") from None
        for option in ("image_column", "caption_column"):
            check_column(option, v.get(option), rows.column_names)
        limit = v.get("max_train_samples")
        if progress is not None:
            progress.say(f"reading {source['path']} into {target}")
        with table.open("a", encoding="utf-8") as lines:
            for index, row in enumerate(rows, done):
                if limit is not None and index >= limit:
                    break
                file = f"{index:08d}.png"
                row[v["image_column"]].convert("RGB").save(target / file)
                text = row.get(v.get("caption_column") or "text")
                lines.write(json.dumps({"file_name": file} | ({} if text is None else {"text": text})) + "\n")

    return fetch


def check_column(option: str, name: str | None, columns: list[str] | None) -> None:
    """Raises LorasmithError if a data set has no column of that name."""
    if name is not None and columns is not None and name not in columns:
        raise LorasmithError(f'--{option}: the data set has no column "{name}"; it has {", ".join(columns)}')

"""data.json: which images a run trains on, with their captions and the remarks on them, for its report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.core.store import write_text
from lorasmith.data.dataset import Dataset
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark

FILE = "data.json"


def write_data_record(
    folder: Path, dataset: Dataset, remarks: Sequence[Remark], trigger_tokens: Mapping[str, Sequence[str]]
) -> None:
    """Write `data.json` into the folder of a run. `trigger_tokens`: how the tokenizer cuts the trigger words."""
    images = [describe_image(dataset, record, held_out=False) for record in dataset.records]
    images += [describe_image(dataset, record, held_out=True) for record in dataset.validation]
    for image in images:
        image["file"] = from_folder(folder, image["file"])
    table = {
        "images": images,
        "remarks": [
            {
                "file": from_folder(folder, str(remark.path)),
                "kind": remark.kind,
                "text": remark.text,
                "severity": remark.severity,
            }
            for remark in remarks
        ],
        "trigger_tokens": {word: list(tokens) for word, tokens in trigger_tokens.items()},
    }
    write_text(folder / FILE, json.dumps(table, ensure_ascii=False, indent=0))


def from_folder(folder: Path, file: str) -> str:
    """The path of a file from the folder of the run: a run that is passed on does not say where somebody's files are.

    Absolute only where there is no such path: on another drive of Windows.
    """
    # the image itself may be a link, whose name is that of its caption
    whole = os.path.join(os.path.realpath(os.path.dirname(file)), os.path.basename(file))
    try:
        return Path(os.path.relpath(whole, os.path.realpath(folder))).as_posix()
    except ValueError:
        return file


def describe_image(dataset: Dataset, record: ImageRecord, held_out: bool) -> dict[str, Any]:
    """An image as JSON data: file, captions, size in pixels, bucket, how often it is repeated, what the crop cuts off.

    `held_out`: whether it is used for validation only.
    """
    placement = dataset.placement(record)
    return {
        "file": str(record.path),
        "captions": list(record.captions),
        "size": list(record.size),
        "bucket": list(placement.bucket),
        "lost": round(placement.lost, 3),
        "repeats": record.repeats,
        "held_out": held_out,
    }

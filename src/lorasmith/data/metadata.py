"""Files that hold the captions of many images: tables of image files, and kohya's JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lorasmith.core.errors import Problem
from lorasmith.data.captions import LINE_BREAK, checked_text, read_captions, read_text
from lorasmith.data.config import SubsetConfig
from lorasmith.data.image_suffixes import SUFFIXES

TABLE_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Tables that are used when they are found beside images."""

KOHYA_FORMAT = 'an object of images, {"01.png": {"caption": "a cat", "tags": "outdoors"}}, or lines with image_path'

CaptionedImage = tuple[Path, tuple[str, ...]]
"""An image file with its captions."""


def read_table(path: Path, subset: SubsetConfig, problems: list[Problem]) -> list[CaptionedImage]:
    """The images of a table, with their captions; what is wrong goes into `problems`.

    `metadata.jsonl` has one object on each line, with `file_name` and `text` (or `caption`, `prompt`), which is a text
    or a list of texts; `metadata.csv` and `metadata.parquet` have the same as columns.
    """
    images: list[CaptionedImage] = []
    for number, line in _table_rows(path, problems):
        if isinstance(line, str) and not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line) if isinstance(line, str) else line
            image = path.parent / row["file_name"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = "no file_name" if isinstance(error, KeyError) else f"not an object with file_name ({error})"
            problems.append(Problem(where, what, 'lines like {"file_name": "01.png", "text": "a cat"}'))
            continue
        if image.is_file():
            images.append((image, _row_captions(row, image, where, subset, problems)))
        else:
            problems.append(Problem(where, f'the image "{row["file_name"]}" does not exist'))
    return images


def _table_rows(path: Path, problems: list[Problem]) -> Iterable[tuple[int, str | dict[str, Any]]]:
    """The rows of a table with their line numbers; those of a `.jsonl` as lines of text, so that a broken one can be
    reported."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            remedy = 'pip install "lorasmith[datasets]", or write it as metadata.jsonl'
            problems.append(Problem(str(path), ".parquet files need pyarrow, which is not installed", remedy=remedy))
            return []
        try:
            return enumerate(parquet.read_table(path).to_pylist(), 1)
        except ArrowException as error:
            problems.append(Problem(str(path), f"cannot be read as a parquet file ({error})"))
            return []
    text = read_text(path, problems)
    if path.suffix != ".csv":
        return enumerate(LINE_BREAK.split(text), 1)
    # The reader gets the text with its line breaks: a quoted cell may hold some.
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows: list[tuple[int, str | dict[str, Any]]] = []
    try:
        for row in reader:
            rows.append((reader.line_num, row))
    except csv.Error as error:
        problems.append(Problem(f"{path}:{reader.line_num}", f"cannot be read as CSV ({error})"))
    return rows


def _row_captions(
    row: dict[str, Any], image: Path, where: str, subset: SubsetConfig, problems: list[Problem]
) -> tuple[str, ...]:
    """The captions in a row of a table; if it has none, those of a caption file or the fallback caption. `where`: the
    row, for messages. A line break inside a caption is a space to the model."""
    columns = (subset.caption_column,) if subset.caption_column else ("text", "caption", "prompt")
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if value is None:
        return read_captions(image, subset, problems)
    texts = value if isinstance(value, list) else [value]
    lines = [LINE_BREAK.sub(" ", str(text)).strip() for text in texts]
    return tuple(checked_text(line, where, problems) for line in lines)


def read_kohya_metadata(path: Path, folder: Path, problems: list[Problem]) -> list[CaptionedImage]:
    """Images with their captions from a `.json` of `{image: {caption, tags}}`, or a `.jsonl` with `image_path`.

    Images are named by a path relative to `folder` or an absolute one, with or without suffix. The caption is
    `caption, tags`; if `caption` has several lines or is a list, each entry makes a caption of its own. What is wrong
    goes into `problems`.
    """
    unreadable: list[Problem] = []
    text = read_text(path, unreadable)
    if unreadable:
        problems += unreadable
        return []

    # The file is another program's: it may have any content, and no row of a broken one can be trusted.
    try:
        rows = list(_kohya_rows(text, path.suffix.lower() == ".jsonl"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(Problem(str(path), f"cannot be read as metadata ({error})", KOHYA_FORMAT))
        return []
    images: list[CaptionedImage] = []
    for name, row in rows:
        image = _kohya_image(folder, name)
        if image is None:
            problems.append(Problem(str(path), f'the image "{name}" does not exist in {folder}'))
        else:
            captions = [checked_text(caption, f"{path}: {name}", problems) for caption in _kohya_captions(row)]
            images.append((image, tuple(captions)))
    return images


def _kohya_rows(text: str, is_jsonl: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the settings of each image."""
    if not is_jsonl:
        for name, row in json.loads(text).items():
            yield name, dict(row)
        return
    for line in LINE_BREAK.split(text):
        if line.strip():
            row = json.loads(line)
            yield str(row["image_path"]), row


def _kohya_image(folder: Path, name: str) -> Path | None:
    """The image file of a name, which may lack its suffix; None if there is none."""
    path = folder / name.replace("\\", "/")
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return path
    if not path.name:  # the root of the file system
        return None
    candidates = [path.with_name(path.name + suffix) for suffix in sorted(SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _kohya_captions(row: dict[str, Any]) -> tuple[str, ...]:
    caption = row.get("caption") or ""
    lines = caption if isinstance(caption, list) else str(caption).splitlines()
    texts = [str(line).strip() for line in lines] or [""]
    tags = row.get("tags") or ""
    tag_text = ", ".join(map(str, tags)) if isinstance(tags, list) else str(tags).strip()
    if not tag_text:
        return tuple(texts)
    return tuple(f"{text}, {tag_text}" if text else tag_text for text in texts)

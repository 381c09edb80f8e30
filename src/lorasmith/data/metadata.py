"""Captions of many images in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorasmith.core.errors import Problem
from lorasmith.data.images import SUFFIXES

FORM = 'an object of images, {"01.png": {"caption": "a cat", "tags": "outdoors"}}, or lines with image_path'


def read_metadata(path: Path, folder: Path, problems: list[Problem]) -> list[tuple[Path, tuple[str, ...]]]:
    """Images with their captions from a `.json` of `{image: {caption, tags}}`, or a `.jsonl` with `image_path`.

    Images are named by a path from `folder` or an absolute one, with or without suffix. A caption is `caption, tags`;
    of several lines, or a list, each is a caption of its own. What is wrong goes into `problems`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_rows(text, path.suffix.lower() == ".jsonl"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(Problem(str(path), f"cannot be read as metadata ({error})", FORM))
        return []
    found = []
    for name, row in rows:
        image = _image(folder, name)
        if image is None:
            problems.append(Problem(str(path), f'the image "{name}" does not exist in {folder}'))
        else:
            found.append((image, _captions(row)))
    return found


def _rows(text: str, lines: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if lines:
        for line in text.splitlines():
            if line.strip():
                row = json.loads(line)
                yield str(row["image_path"]), row
    else:
        for name, row in json.loads(text).items():
            yield name, dict(row)


def _image(folder: Path, name: str) -> Path | None:
    path = folder / name.replace("\\", "/")
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return path
    return next((p for s in sorted(SUFFIXES) if (p := path.with_name(path.name + s)).is_file()), None)


def _captions(row: dict[str, Any]) -> tuple[str, ...]:
    given = row.get("caption") or ""
    texts = [str(t).strip() for t in (given if isinstance(given, list) else str(given).splitlines())]
    tags = row.get("tags") or ""
    words = ", ".join(map(str, tags)) if isinstance(tags, list) else str(tags).strip()
    return tuple(", ".join(part for part in (text, words) if part) for text in texts or [""])

"""Where images are: `N_class` folders, metadata, and how often regularisation images come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.dataset import IMAGE_KEYS, RENAMED, SIZE_KEYS, SOURCE_KEYS, Set, Source, searched
from lorasmith.data.scan import CLASS_FOLDER, images_in, natural

Piece = tuple[Source, int, tuple[int, int] | None]
"""A source, how often each of its images comes, and which of them (None: all)."""


def plain_set(arguments: Mapping[str, Any]) -> tuple[Set, list[str]]:
    """The dataset that train_data_dir, reg_data_dir and in_json name, and what was left out."""
    below = {RENAMED.get(key, key): value for key, value in arguments.items()}
    shared = searched(IMAGE_KEYS, [below]) | {option.name: option.default for option in SOURCE_KEYS}
    data, metadata = arguments.get("train_data_dir"), arguments.get("in_json")
    notes: list[str] = []
    if metadata:
        values = shared | {"image_dir": data, "metadata_file": metadata}
        sources = [Source(values, "in_json")]
    else:
        masks = arguments.get("conditioning_data_dir")
        sources = class_folders(data, shared | {"conditioning_data_dir": masks}, "train_data_dir", notes)
        if arguments.get("reg_data_dir"):
            regular = shared | {"is_reg": True}
            sources += class_folders(arguments["reg_data_dir"], regular, "reg_data_dir", notes)
    return Set(searched(SIZE_KEYS, [below]), tuple(sources)), notes


def class_folders(folder: str | None, shared: dict[str, Any], where: str, notes: list[str]) -> list[Source]:
    """A source for each `N_class` folder, as listed now; the folder itself where it cannot be listed here."""
    if not folder:
        return []
    path = Path(folder).expanduser()
    if not path.is_dir():
        return [Source(shared | {"image_dir": folder}, where, class_folders=True)]
    found = []
    for sub in natural(p for p in path.iterdir() if p.is_dir()):
        match = CLASS_FOLDER.fullmatch(sub.name)
        if match is None or int(match[1]) < 1:
            notes.append(f"{where}: the folder {sub.name} is left out: its name is not of the form 10_name")
            continue
        own = {"image_dir": str(Path(folder) / sub.name), "num_repeats": int(match[1]), "class_tokens": match[2]}
        found.append(Source(shared | own, f"{where}/{sub.name}"))
    return found


def pieces(dataset: Set) -> list[Piece]:
    """Each source with its repeats; regularisation images come as often as the others together, as the original does.

    It goes through them in order, each `num_repeats` times, until there are as many as training images, and if there
    are too few goes on adding each once more.
    """
    train = [source for source in dataset.sources if not source.is_reg]
    regular = [source for source in dataset.sources if source.is_reg]
    found: list[Piece] = [(source, source.num_repeats, None) for source in train]
    counts = {id(source): count(source) for source in dataset.sources}
    if not regular or any(counts[id(source)] is None for source in dataset.sources):
        return found + [(source, source.num_repeats, None) for source in regular]
    wanted = sum((counts[id(source)] or 0) * source.num_repeats for source in train)
    each = [source for source in regular for _ in range(counts[id(source)] or 0)]
    views = balanced([source.num_repeats for source in each], wanted)
    start = 0
    for source in regular:
        size = counts[id(source)] or 0
        found += runs(source, views[start : start + size])
        start += size
    return found


def balanced(repeats: list[int], wanted: int) -> list[int]:
    """How often each regularisation image comes, for `wanted` views of training images."""
    views = [0] * len(repeats)
    total, first = 0, True
    while views and total < wanted:
        for i, times in enumerate(repeats):
            if total >= wanted:
                break
            views[i] += times if first else 1
            total += times if first else 1
        first = False
    return views


def runs(source: Source, views: list[int]) -> list[Piece]:
    """Stretches of images that come equally often; those that never come are left out."""
    found: list[Piece] = []
    start = 0
    for place in range(1, len(views) + 1):
        if place == len(views) or views[place] != views[start]:
            if views[start]:
                part = None if (start, place) == (0, len(views)) else (start, place)
                found.append((source, views[start], part))
            start = place
    return found


def count(source: Source) -> int | None:
    """How many images there are, or None if that cannot be seen here."""
    folder = Path(source.image_dir or "").expanduser()
    if source.metadata_file or source.class_folders or not source.image_dir or not folder.is_dir():
        return None
    return len(images_in(folder, recursive=False))

"""Preview grids and attention heatmaps as images inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from lorasmith.training.output.report.record import Record

T = TypeVar("T")

MOST_PICTURES = 12
"""If there are more grids than this, some are left out; the first and the last are always shown."""
WIDEST = 1400
"""Largest width in pixels. Wider pictures are scaled down."""


def attention_pictures(record: Record) -> list[tuple[int, str]]:
    """(step, data URL) of the attention heatmaps, oldest first."""
    # a resumed run may have drawn a step twice: the later event counts
    files = {int(event.get("step") or 0): str(event.get("picture")) for event in record.of("attention")}
    pictures = []
    for step in select_evenly(sorted(files)):
        url = data_url(record, record.folder / files[step])
        if url:
            pictures.append((step, url))
    return pictures


def previews(record: Record) -> list[tuple[int, list[str], list[str]]]:
    """(step, data URLs of the grids, prompts) of the previews whose files can be read, oldest first."""
    events = {int(event.get("step") or 0): event for event in record.of("preview")}
    # previews with a grid for each prompt take more room, so fewer of them are shown
    grid_counts = [len(grids_of(event)) for event in events.values()]
    grids_per_preview = max(grid_counts, default=1)
    most_previews = max(2, MOST_PICTURES // max(1, grids_per_preview))

    pictures = []
    for step in select_evenly(sorted(events), most_previews):
        event = events[step]
        urls = [data_url(record, record.folder / grid) for grid in grids_of(event)]
        readable = [url for url in urls if url]
        if readable:
            pictures.append((step, readable, prompts_of(event)))
    return pictures


def prompts_of(event: dict[str, Any]) -> list[str]:
    """The prompts of a preview event."""
    return [str(prompt) for prompt in event.get("prompts") or []]


def how_previews_are_drawn(record: Record) -> str:
    """Sampler, steps and guidance of the last preview, and the program that it equals; empty in runs before 0.2."""
    events = record.of("preview")
    return str(events[-1].get("drawn") or "") if events else ""


def grids_of(event: dict[str, Any]) -> list[str]:
    """The files of a preview's grids: one in all, or one for each prompt."""
    # events of older versions have `grid` only
    grids = event.get("grids") or [event.get("grid")]
    return [str(grid) for grid in grids if grid]


def select_evenly(steps: Sequence[T], most: int = MOST_PICTURES) -> list[T]:
    """At most `most` of the steps, evenly spread, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(i * last / (most - 1))] for i in range(most)]


def data_url(record: Record, path: Path, side: int = WIDEST) -> str | None:
    """An image file as a `data:` URL, scaled down for the page to a width of `side`; None if it cannot be read."""

    def load() -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return url_once(record, path, side, load)


def thumbnail_url(record: Record, path: Path, side: int) -> str | None:
    """A training image as a small `data:` URL; None if it is not there any more."""
    # imported here: a report without training images needs no numpy
    from lorasmith.data.thumbnails import thumbnail

    return url_once(record, path, side, lambda: thumbnail(path, side))


def url_once(record: Record, path: Path, side: int, load: Callable[[], Image.Image]) -> str | None:
    """The `data:` URL of a picture: that of an earlier report if the file is the same, else a new one of what `load`
    returns. None if it cannot be read."""
    try:
        key = path, path.stat().st_mtime, side
        url = record.earlier_pictures.get(key) or encode(load(), side)
    except (OSError, ValueError):
        return None
    record.pictures[key] = url
    return url


def encode(picture: Image.Image, side: int) -> str:
    """A picture as a `data:` URL with at most `side` pixels in width."""
    picture.thumbnail((side, side * 4), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

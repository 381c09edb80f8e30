"""Preview grids, and pictures of where words look, as images inside the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.training.output.report.record import Record

MOST = 12
"""More grids than this are thinned out evenly; the first and the last stay."""
WIDEST = 1400


def attention(record: Record) -> list[tuple[int, str]]:
    """(step, data URL) of the pictures of where words look, oldest first."""
    newest = {int(e.get("step") or 0): str(e.get("picture")) for e in record.of("attention")}
    found = [(step, data_url(record.folder / newest[step])) for step in spread(sorted(newest))]
    return [(step, url) for step, url in found if url]


def previews(record: Record) -> list[tuple[int, list[str], list[str]]]:
    """(step, data URLs of the grids, prompts) of the previews that can still be read, oldest first."""
    newest = {int(e.get("step") or 0): e for e in record.of("preview")}
    most = max((len(grids_of(event)) for event in newest.values()), default=1)
    steps = spread(sorted(newest), max(2, MOST // max(1, most)))
    found = [(step, _urls(record, newest[step]), prompts_of(newest[step])) for step in steps]
    return [one for one in found if one[1]]


def prompts_of(event: dict[str, Any]) -> list[str]:
    """The prompts of a preview, as text."""
    return [str(p) for p in event.get("prompts") or []]


def spread(steps: list[int], most: int = MOST) -> list[int]:
    """At most `most` of them, evenly, ends included."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def grids_of(event: dict[str, Any]) -> list[str]:
    """The grids of a preview: one, or one for each prompt."""
    return [str(grid) for grid in event.get("grids") or [event.get("grid")] if grid]


def _urls(record: Record, event: dict[str, Any]) -> list[str]:
    return [url for grid in grids_of(event) if (url := data_url(record.folder / grid))]


def data_url(path: Path) -> str | None:
    """An image file as a `data:` URL, small enough for a page; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError):
        return None
    picture.thumbnail((WIDEST, WIDEST * 4), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

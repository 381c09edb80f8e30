"""Plain data as tables of a page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lorasmith.training.output.report.record import Record

MOST_ENTRIES = 12


def table(values: Mapping[str, Any]) -> str:
    """Name and value in rows; empty values are left out."""
    rows = "".join(
        f"<tr><th>{escape(str(name).replace('_', ' '))}</th><td>{shown(value)}</td></tr>"
        for name, value in values.items()
        if value not in (None, "", [], {}, ())
    )
    return f"<table>{rows}</table>" if rows else ""


def shown(value: Any) -> str:
    """A value as HTML: numbers with separators, lists joined, tables inside tables."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return table(dict(list(value.items())[:MOST_ENTRIES]))
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MOST_ENTRIES} more" if len(value) > MOST_ENTRIES else ""
        return ", ".join(shown(v) for v in value[:MOST_ENTRIES]) + more
    return escape(str(value))


def buckets(found: list[Any]) -> str:
    """Sizes with the number of images as bars."""
    entries = [b for b in found if isinstance(b, Mapping) and b.get("size") and b.get("images") is not None]
    most = max((b["images"] for b in entries), default=0)
    rows = "".join(
        f'<tr><th>{"×".join(str(v) for v in b["size"])}</th><td><span class="bar" '
        f'style="width:{100 * b["images"] / max(1, most):.0f}px"></span>{b["images"]:,}</td></tr>'
        for b in entries
    )
    return f"<table>{rows}</table>" if rows else ""


def files(record: Record) -> dict[str, Any]:
    """The LoRA files with their sizes, and the trigger words to call them with."""
    names = dict.fromkeys(str(e["file"]) for e in [*record.of("end"), *record.of("export")] if e.get("file"))
    found: dict[str, Any] = {}
    for name in names:
        path = record.folder / name
        if path.is_file():
            found[name] = f"{path.stat().st_size / 1e6:.2f} MB"
    found["trigger words"] = record.part("trigger")
    return found


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"

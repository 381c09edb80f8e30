"""Plain data as HTML tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from lorasmith.training.output.report.record import Record

MOST_ENTRIES = 12
"""Entries of a list or an inner table that are shown."""
EMPTY = (None, "", [], {}, ())


def table(values: Mapping[str, Any], explain: Callable[[str], str] | None = None) -> str:
    """A table with a row for each name and value. Empty values are left out. `explain`: the text below a value, from
    its name; may be empty."""
    rows = []
    last_text = ""
    for name, value in values.items():
        if value not in EMPTY:
            heading = escape(str(name).replace("_", " "))
            text = explain(str(name)) if explain is not None else ""
            # neighbours of one meaning are explained once
            note = f'<p class="note">{escape(text)}</p>' if text and text != last_text else ""
            last_text = text
            rows.append(f"<tr><th>{heading}</th><td>{format_value(value)}{note}</td></tr>")
    return f"<table>{''.join(rows)}</table>" if rows else ""


def format_value(value: Any) -> str:
    """A value as HTML: numbers with thousands separators, lists joined by commas, mappings as inner tables."""
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
        return ", ".join(format_value(item) for item in value[:MOST_ENTRIES]) + more
    return escape(str(value))


def card(title: str, content: str) -> str:
    """A box with a title; empty if there is no content."""
    if not content:
        return ""
    bold_title = f"<b>{escape(title)}</b>" if title else ""
    return f'<div class="card">{bold_title}{content}</div>'


def bucket_table(buckets: list[Any]) -> str:
    """A table of bucket sizes, with the number of images as bars."""
    # a summary of another version may lack a field
    counts: list[tuple[str, int]] = []
    for bucket in buckets:
        if isinstance(bucket, Mapping) and bucket.get("size") and bucket.get("images") is not None:
            size = "×".join(str(side) for side in bucket["size"])
            counts.append((size, bucket["images"]))

    largest = max((images for _, images in counts), default=0)
    rows = []
    for size, images in counts:
        bar = f'<span class="bar" style="width:{100 * images / max(1, largest):.0f}px"></span>'
        rows.append(f"<tr><th>{size}</th><td>{bar}{images:,}</td></tr>")
    return f"<table>{''.join(rows)}</table>" if rows else ""


def exported_files(record: Record) -> dict[str, Any]:
    """The exported files that still exist with their sizes, and the trigger words."""
    # the best and the final file come first; numbered files may have been deleted by `keep`
    values: dict[str, Any] = {}
    best_files = [] if record.best is None else [record.best]
    for event in [*best_files, *record.of("end"), *record.of("export")]:
        name = str(event.get("file") or "")
        path = record.folder / name
        if name and path.is_file():
            is_best = (record.best or {}).get("file") == name
            values[name] = f"{path.stat().st_size / 1e6:.2f} MB{', best' if is_best else ''}"
    values["trigger words"] = record.summary_value("trigger")
    return values


def format_duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"

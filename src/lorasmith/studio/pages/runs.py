"""The page of runs: every run below the folders of the studio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from lorasmith.studio.events import Change, stream
from lorasmith.studio.page import Call, Page, get
from lorasmith.studio.run_list import Row

INTERVAL = 2.0
"""Seconds between two looks at all runs."""


def list_runs(call: Call) -> dict[str, Any]:
    """All runs, newest first."""
    return {"runs": [row_for_page(call, row) for row in call.run_list.rows()]}


def watch_runs(call: Call) -> Response:
    """Sends the rows that have changed, as `rows`, and the names of runs that are gone, as `gone`."""
    sent: dict[str, dict[str, Any]] = {}

    def poll() -> Iterator[Change]:
        rows = {row["id"]: row for row in list_runs(call)["runs"]}
        changed = [row for name, row in rows.items() if sent.get(name) != row]
        gone = [name for name in sent if name not in rows]
        sent.clear()
        sent.update(rows)
        if changed:
            yield "rows", changed
        if gone:
            yield "gone", gone

    return stream(call.request, poll, INTERVAL)


def row_for_page(call: Call, row: Row) -> dict[str, Any]:
    """A row as JSON data, with names in place of paths."""
    picture = row["picture"]
    return {
        **row,
        "id": call.roots.name_of(row["folder"]),
        "folder": str(row["folder"]),
        "picture": None if picture is None else call.roots.name_of(picture),
    }


PAGE = Page("runs", "Runs", 10, [get("/list", list_runs), get("/watch", watch_runs)])

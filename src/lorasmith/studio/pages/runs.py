"""The page of runs: every run below the folders of the studio."""

from __future__ import annotations

from typing import Any

from lorasmith.studio.page import Call, Page, get, post


def list_runs(call: Call) -> dict[str, Any]:
    """All runs, newest first."""
    return {"runs": []}


PAGE = Page("runs", "Runs", 10, [get("/list", list_runs), post("/control", list_runs)])

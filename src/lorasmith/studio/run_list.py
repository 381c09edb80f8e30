"""Which runs there are below the folders of the studio, and how far each is."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lorasmith.core.lock import find_holder
from lorasmith.core.store import LEFTOVER
from lorasmith.studio.process import read_tail
from lorasmith.training.output.report.record import parse_event

EVENTS = "events.jsonl"
DEEPEST = 8
"""Folders below a root that are searched."""
FRESH_SECONDS = 3.0
"""For how long the list of folders is used again."""
LARGEST_SHARE = 0.05
"""The largest share of the time that searching folders may take."""
TAIL = 16 << 10
"""Bytes at the end of the events from which the state of a run is read."""
AVERAGED = 20
"""Steps whose losses are averaged."""
LARGEST_SUMMARY = 8 << 20
STEP_FOLDER = re.compile(r"step-(\d+)")

Row = dict[str, Any]


class RunList:
    """All runs below some folders. Only the ends of their files are read, and only when they have changed."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = list(roots)
        self._folders: list[Path] = []
        self._search_next = 0.0
        self._rows: dict[Path, tuple[tuple[int, int], Row]] = {}
        self._lock = threading.Lock()

    def folders(self) -> list[Path]:
        """The folders of all runs."""
        with self._lock:
            started = time.monotonic()
            if started >= self._search_next:
                self._folders = list(dict.fromkeys(path for root in self._roots for path in find_runs(root)))
                ended = time.monotonic()
                # somebody may start the studio on a whole home folder
                self._search_next = ended + max(FRESH_SECONDS, (ended - started) / LARGEST_SHARE)
            return self._folders

    def rows(self) -> list[Row]:
        """What the list shows of each run, the newest first."""
        rows = [row for folder in self.folders() if (row := self.row(folder)) is not None]
        return sorted(rows, key=lambda row: row["changed"], reverse=True)

    def row(self, folder: Path) -> Row | None:
        """What the list shows of one run; None if it is not there any more."""
        try:
            status = (folder / EVENTS).stat()
        except OSError:
            return None
        version = status.st_mtime_ns, status.st_size
        known = self._rows.get(folder)
        if known is None or known[0] != version:
            known = version, {"folder": folder, "changed": status.st_mtime, **read_row(folder)}
            self._rows[folder] = known
        return {**known[1], "state": state_of(folder, known[1]["finished"])}


def find_runs(root: Path) -> Iterator[Path]:
    """The folders with events below a root. What is inside of a run is not searched."""
    depth = len(root.parts)
    for parent, names, files in os.walk(root):
        if EVENTS in files:
            names.clear()
            yield Path(parent)
            continue
        if len(Path(parent).parts) - depth >= DEEPEST:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith(".") and not LEFTOVER.fullmatch(name))


def state_of(folder: Path, finished: bool) -> str:
    """`running`, `finished` or `stopped`."""
    if find_holder(folder) is not None:
        return "running"
    return "finished" if finished else "stopped"


def read_row(folder: Path) -> Row:
    """The numbers of a run from the end of its events, and its name and plan from its summary."""
    events = newest_events(folder / EVENTS)
    losses = numbers(events, "loss", kind="step")[-AVERAGED:]
    summary = read_summary(folder)
    return {
        "name": str(summary.get("name") or folder.name),
        "step": int(max(numbers(events, "step"), default=0)),
        "steps": value_of(summary, "length", "steps"),
        "loss": sum(losses) / len(losses) if losses else None,
        "seconds": max(numbers(events, "seconds"), default=None),
        "finished": last_of(events, "end") > last_of(events, "start", "resume"),
        "base": value_of(summary, "base", "source"),
        "adapter": value_of(summary, "adapter", "kind"),
        "rank": value_of(summary, "adapter", "rank"),
        "images": value_of(summary, "data", "images"),
        "device": summary.get("device"),
        "picture": newest_preview(folder),
    }


def newest_events(path: Path) -> list[Row]:
    """The last events of a run in their order, as far back as `AVERAGED` steps: a start or an end before these says
    nothing, since each session begins with an event of its own."""
    events: list[Row] = []
    steps = 0
    for line in reversed(read_tail(path, TAIL).splitlines()):
        event = parse_event(line)
        if event is None:
            continue
        events.append(event)
        steps += event.get("event") == "step"
        if steps >= AVERAGED:
            break
    return events[::-1]


def numbers(events: list[Row], key: str, kind: str = "") -> list[float]:
    """The numbers under a key of events, of one kind or of all."""
    of_kind = [event for event in events if not kind or event.get("event") == kind]
    return [event[key] for event in of_kind if isinstance(event.get(key), int | float)]


def last_of(events: list[Row], *kinds: str) -> int:
    """The place of the last event of some kinds; -1 if there is none."""
    return max((place for place, event in enumerate(events) if event.get("event") in kinds), default=-1)


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a run; empty if there is none that can be read."""
    path = folder / "summary.json"
    try:
        if path.stat().st_size > LARGEST_SUMMARY:
            return {}
        return parse(path.read_text(encoding="utf-8", errors="replace")) or {}
    except OSError:
        return {}


def value_of(table: dict[str, Any], *keys: str) -> Any:
    """The value under nested keys; None if there is none."""
    value: Any = table
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def parse(text: str) -> dict[str, Any] | None:
    """A JSON table; None if the text is something else."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def newest_preview(folder: Path) -> Path | None:
    """A picture of the newest preview."""
    previews = folder / "previews"
    try:
        steps = [name for name in os.listdir(previews) if STEP_FOLDER.fullmatch(name)]
        for name in sorted(steps, reverse=True)[:2]:
            pictures = sorted(file for file in os.listdir(previews / name) if re.match(r"\d+.*\.png", file))
            if pictures:
                return previews / name / pictures[0]
    except OSError:
        pass
    return None

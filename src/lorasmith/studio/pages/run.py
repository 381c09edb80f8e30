"""The page of one run: curves, previews, files and log as they are written, and the requests that the run takes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import find_holder
from lorasmith.core.lock_holder import holder_in
from lorasmith.studio.events import Change, stream
from lorasmith.studio.memory import memory_of
from lorasmith.studio.page import Call, Page, get, picture, post
from lorasmith.studio.process import CONSOLE, read_tail
from lorasmith.studio.run_list import EVENTS, parse, read_summary, value_of
from lorasmith.studio.run_log import RunLog
from lorasmith.training.output.control import send_request
from lorasmith.training.output.report.notes import warnings
from lorasmith.training.output.report.record import Event, Record, with_whole_paths

CONFIG = "config.toml"
LOG_LINES = 400
LARGEST_FILE = 4 << 20
"""Bytes of a config or a list of images that are sent to the page."""
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; frame-ancestors 'none'"
    )
}
"""A report runs its own script, but in an origin of its own: it may come from somebody else, and can reach nothing."""


def run_folder(call: Call) -> Path:
    """The folder of the run that the request names. Raises LorasmithError if it holds none."""
    folder = call.folder("run")
    if not (folder / EVENTS).is_file():
        raise LorasmithError(f"{call.text('run')}: holds no run (no {EVENTS} in it)")
    return folder


def show(call: Call) -> dict[str, Any]:
    """Everything about a run but its curves."""
    folder = run_folder(call)
    log = call.run_logs.get(folder)
    summary = read_summary(folder)
    return {
        "name": str(summary.get("name") or folder.name),
        "folder": str(folder),
        "summary": summary,
        "config": read_limited(folder / CONFIG),
        "data": data_of(call, folder),
        "has_report": (folder / "report.html").is_file(),
        **live(call, folder, log),
    }


def live(call: Call, folder: Path, log: RunLog) -> dict[str, Any]:
    """What changes while a run is under way."""
    with log.lock:
        record = Record(folder, list(log.events), read_summary(folder))
        return {
            "status": status(call, folder, log),
            "warnings": [text for text in warnings(record) if not text.startswith("The run is not finished")],
            "previews": previews(log),
            "attention": [{"step": e.get("step"), "file": e.get("picture")} for e in log.of("attention")],
            "exports": exports(folder, log, record.best or {}),
            "best": record.best,
            "log": log_lines(log),
            "console": read_tail(folder / CONSOLE),
        }


def status(call: Call, folder: Path, log: RunLog) -> dict[str, Any]:
    """State, position, speed, remaining time and memory."""
    row = call.run_list.row(folder) or {}
    holder = holder_in(folder)
    steps = value_of(read_summary(folder), "length", "steps")
    seconds_per_step = log.seconds_per_step
    remaining = None
    if isinstance(steps, int) and seconds_per_step is not None:
        remaining = max(0, steps - log.last_step) * seconds_per_step
    key = str(folder)
    exit_code = call.processes.exit_code(key)
    return {
        "state": "starting" if holder is None and call.processes.is_running(key) else row.get("state", "stopped"),
        "failed": bool(exit_code) and exit_code not in (130, -15) and holder is None,
        "step": log.last_step,
        "steps": steps,
        "loss": row.get("loss"),
        "seconds": row.get("seconds"),
        "seconds_per_step": seconds_per_step,
        "remaining": remaining,
        "device": row.get("device"),
        "memory": memory_of(holder.number) if holder is not None and holder.is_here else None,
        "host": None if holder is None or holder.is_here else holder.host,
    }


def previews(log: RunLog) -> list[dict[str, Any]]:
    """The previews, oldest first: step, prompts, files of the pictures, and files of the grids."""
    # a resumed run may have drawn a step twice: the later event counts
    by_step: dict[int, Event] = {}
    for event in log.of("preview"):
        by_step[int(event.get("step") or 0)] = event
    return [
        {
            "step": step,
            "prompts": event.get("prompts") or [],
            "images": event.get("images") or [],
            "grids": event.get("grids") or [event.get("grid")],
        }
        for step, event in sorted(by_step.items())
    ]


def exports(folder: Path, log: RunLog, best: Event) -> list[dict[str, Any]]:
    """The exported files that are there, newest first, and which of them was judged best."""
    files: dict[str, dict[str, Any]] = {}
    # the best weights have a file of their own, of an earlier step than that of the judgement
    best_file = {"file": best.get("file"), "step": best.get("best_step", best.get("step"))}
    for event in [best_file, *log.of("export"), *log.of("end")]:
        name = event.get("file")
        if not isinstance(name, str):
            continue
        try:
            size = (folder / name).stat().st_size
        except OSError:
            continue
        is_best = best.get("file") == name
        files[name] = {"file": name, "step": event.get("step"), "size": size, "best": is_best}
    lowest = lowest_validation(log)
    for row in files.values():
        row["lowest_validation"] = lowest is not None and row["step"] == lowest
    return sorted(files.values(), key=lambda row: row["step"] or 0, reverse=True)


def lowest_validation(log: RunLog) -> int | None:
    """The step of the lowest validation loss, which is a fact and no judgement of the pictures; None if there are too
    few to compare."""
    measured = [e for e in log.of("validation") if isinstance(e.get("loss"), int | float)]
    return min(measured, key=lambda e: e["loss"])["step"] if len(measured) > 2 else None


def log_lines(log: RunLog) -> list[dict[str, Any]]:
    """The events other than steps, newest last."""
    return log.events[-LOG_LINES:]


def data_of(call: Call, folder: Path) -> dict[str, Any]:
    """Where the images of a run are, as far as that is known, with the names of folders that the studio can open."""
    data = with_whole_paths(folder, parse(read_limited(folder / "data.json")) or {})
    files = [image.get("file") for image in data.get("images") or [] if isinstance(image, dict)]
    folders = dict.fromkeys(str(Path(file).parent) for file in files if isinstance(file, str))
    names = {path: call.roots.name_of(Path(path)) for path in folders}
    return {
        "folders": [{"path": path, "name": name} for path, name in names.items()],
        "remarks": len(data.get("remarks") or []),
        # with which settings the page of data shows these folders
        "settings": data_settings(folder),
        "config": call.roots.name_of(folder / CONFIG),
    }


def data_settings(folder: Path) -> dict[str, Any]:
    """Trigger and resolution of a run, from its config."""
    try:
        table = tomllib.loads(read_limited(folder / CONFIG))
    except tomllib.TOMLDecodeError:
        return {}
    settings: dict[str, Any] = {}
    trigger = table.get("trigger")
    if isinstance(trigger, list):
        settings["trigger"] = " ".join(map(str, trigger))
    resolution = value_of(table, "data", "resolution")
    if isinstance(resolution, int):
        settings["resolution"] = resolution
    return settings


def read_limited(path: Path) -> str:
    """A text file; empty if it is not there or too large for a page."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= LARGEST_FILE else ""
    except OSError:
        return ""


def curves(call: Call) -> dict[str, Any]:
    """The charts."""
    return call.run_logs.get(run_folder(call)).curves()


def watch(call: Call) -> Response:
    """Sends `live` when something has happened, and `status` when only the state has changed."""
    folder = run_folder(call)
    last: dict[str, Any] = {"generation": None, "status": None}

    def poll() -> Iterator[Change]:
        log = call.run_logs.get(folder)
        now = status(call, folder, log)
        if log.generation != last["generation"]:
            yield "live", live(call, folder, log)
        elif now != last["status"]:
            yield "status", now
        last.update(generation=log.generation, status=now)

    return stream(call.request, poll)


def show_picture(call: Call) -> Response:
    """A picture of a run: its `file` as events name it, which may lie beside the folder of the run."""
    return picture(call.roots.check(run_folder(call) / call.text("file")))


def show_report(call: Call) -> Response:
    """report.html, written anew."""
    # Pillow and numpy are imported with the first report
    from lorasmith import api

    path = api.report(run_folder(call))
    return HTMLResponse(path.read_text(encoding="utf-8"), headers=REPORT_HEADERS)


def control(call: Call) -> dict[str, Any]:
    """Ask a run for `request`: stop, preview, export or checkpoint."""
    send_request(run_folder(call), call.text("request"))
    return {}


def resume(call: Call) -> dict[str, Any]:
    """Continue a run that is stopped, in a process of its own."""
    folder = run_folder(call)
    if find_holder(folder) is not None:
        raise LorasmithError(f"{folder.name}: the run is under way already")
    call.processes.start(str(folder), ["train", "--resume", str(folder)], folder / CONSOLE)
    return {}


PAGE = Page(
    "run",
    "Run",
    11,
    [
        get("/show", show),
        get("/curves", curves),
        get("/watch", watch),
        get("/picture", show_picture),
        get("/report", show_report),
        post("/control", control),
        post("/resume", resume),
    ],
    in_navigation=False,
    parent="runs",
)

"""The page of sweeps: their runs as a table, with curves and pictures, which is the best and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import find_holder
from lorasmith.studio.events import stream_state
from lorasmith.studio.page import Call, Page, get
from lorasmith.studio.run_list import EVENTS, parse
from lorasmith.studio.run_log import RunLog, chart, event_points, line
from lorasmith.training.output.report.record import smooth

RUNS, SETTINGS, RESULTS, COMPARISON = "runs", "settings", "results.json", "comparison.png"
"""What the folder of a sweep holds."""
INTERVAL = 2.0
LARGEST_RESULTS = 16 << 20
MOST_LINES = 40
"""Runs whose curves are drawn."""
COLOURED = 5
NUMBERS = ("loss", "validation_loss", "best_loss", "best_step", "steps", "seconds")
NOT_JUDGED = (
    "No run is called the best: none has a held-out loss, and training losses of different settings cannot be compared"
    ". Hold images out with data.validation.split = 0.1."
)
_curves: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
"""The curves of runs, by the version of their events: most runs of a sweep do not change any more."""


def list_sweeps(call: Call) -> dict[str, Any]:
    """The sweeps below the folders."""
    folders = dict.fromkeys(folder.parent.parent for folder in call.run_list.folders() if folder.parent.name == RUNS)
    rows = []
    for folder in folders:
        name = call.roots.name_of(folder)
        if name is None or not is_sweep(folder):
            continue
        results = read_results(folder)
        rows.append(
            {
                "sweep": name,
                "runs": len(rows_of(results)) or len(list((folder / SETTINGS).glob("*.toml"))),
                "finished": sum(row.get("state") in ("finished", "pruned") for row in rows_of(results)),
                "best": results.get("best"),
                "running": find_holder(folder) is not None,
            }
        )
    return {"sweeps": rows}


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep, as far as it has come."""
    return (folder / RESULTS).is_file() or (folder / SETTINGS).is_dir()


def read_results(folder: Path) -> dict[str, Any]:
    """results.json; empty before the first run has ended."""
    path = folder / RESULTS
    try:
        if path.stat().st_size <= LARGEST_RESULTS:
            return parse(path.read_text(encoding="utf-8", errors="replace")) or {}
    except OSError:
        pass
    return {}


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of results.json that are of the right form."""
    runs = results.get("runs")
    rows = runs if isinstance(runs, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("run"), str) and "/" not in row["run"]]


def show(call: Call) -> dict[str, Any]:
    """Everything about a sweep but its curves."""
    folder = sweep_folder(call)
    results = read_results(folder)
    rows = {row["run"]: row for row in rows_of(results)}
    # runs that have begun since a run has ended last
    begun = [path.stem for path in sorted((folder / SETTINGS).glob("*.toml")) if path.stem not in rows]
    described = [describe(call, folder, row) for row in [*rows.values(), *({"run": name} for name in begun)]]
    described.sort(key=rank)
    best = results.get("best")
    comparison = folder / COMPARISON
    return {
        "folder": str(folder),
        "running": find_holder(folder) is not None,
        "keys": list(dict.fromkeys(key for row in described for key in row["values"])),
        "rows": described,
        "best": best,
        "why": why(described, best, results.get("ties") or []),
        "comparison": call.roots.name_of(comparison) if comparison.is_file() else None,
        "changed": comparison.stat().st_mtime_ns if comparison.is_file() else 0,
    }


def describe(call: Call, folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A run as a row of the table: what results.json says of it, and how far it is now."""
    run = folder / RUNS / row["run"]
    live = call.run_list.row(run)
    values = row.get("values")
    numbers = {key: row[key] if isinstance(row.get(key), int | float) else None for key in NUMBERS}
    if live is not None and numbers["loss"] is None:
        numbers.update(loss=live["loss"], steps=live["step"], seconds=live["seconds"])
    picture = None if live is None else live["picture"]
    return {
        "run": row["run"],
        "id": None if live is None else call.roots.name_of(run),
        "values": {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {},
        "state": state_of(row, live),
        "message": str(row.get("message") or ""),
        "picture": None if picture is None else call.roots.name_of(picture),
        **numbers,
    }


def state_of(row: dict[str, Any], live: dict[str, Any] | None) -> str:
    """The state of a run: that of results.json, which is written when a run ends, or what the run itself says since."""
    state = str(row.get("state") or "waiting")
    is_newer = live is not None and (state in ("waiting", "running") or live["state"] == "running")
    return live["state"] if live is not None and is_newer else state


def held_out(row: dict[str, Any]) -> float | None:
    """The loss that runs are ranked by: of their best weights, else of the last ones."""
    return row["validation_loss"] if row["best_loss"] is None else row["best_loss"]


def rank(row: dict[str, Any]) -> tuple[bool, float]:
    """The lowest held-out loss first; runs without one last."""
    loss = held_out(row)
    return loss is None, loss or 0.0


def why(rows: list[dict[str, Any]], best: Any, ties: list[Any]) -> str:
    """Why a run is the best one, or why none is."""
    finished = [row for row in rows if row["state"] == "finished"]
    judged = [row for row in finished if held_out(row) is not None]
    chosen = next((row for row in judged if row["run"] == best), None)
    if chosen is None:
        return NOT_JUDGED if finished else "No run is finished yet."
    return praise(chosen, [row for row in judged if row is not chosen], ties)


def praise(chosen: dict[str, Any], others: list[dict[str, Any]], ties: list[Any]) -> str:
    """Why a run is the best: its held-out loss, that of the next one, and the runs that it does not differ from."""
    step = "" if chosen["best_step"] is None else f" at step {chosen['best_step']}"
    text = f"{chosen['run']} has the lowest held-out loss of its best weights: {held_out(chosen):.4f}{step}."
    if others:
        text += f" The next one, {others[0]['run']}, has {held_out(others[0]):.4f}."
    if ties:
        text += f" These held-out images show no difference from: {', '.join(map(str, ties))}."
    return text


def curves(call: Call) -> dict[str, Any]:
    """A chart of the held-out loss and one of the training loss, with a line for each run, the best ones first."""
    folder = sweep_folder(call)
    names = [row["run"] for row in show(call)["rows"]][:MOST_LINES]
    lines = [(name, curves_of(folder / RUNS / name)) for name in names if (folder / RUNS / name / EVENTS).is_file()]
    charts = [
        chart(
            title,
            *(
                {**each[key], "name": name, "style": "" if i < COLOURED else "raw"}
                for i, (name, each) in enumerate(lines)
            ),
        )
        for title, key in (("Held-out loss", "validation"), ("Training loss, mean", "loss"))
    ]
    return {"charts": [each for each in charts if each["lines"]]}


def curves_of(run: Path) -> dict[str, Any]:
    """The lines of a run; its events are read anew only if they have changed."""
    status = (run / EVENTS).stat()
    version = status.st_mtime_ns, status.st_size
    known = _curves.get(run)
    if known is None or known[0] != version:
        log = RunLog(run)
        log.refresh()
        lines = {
            "loss": line("", smooth(log.points("loss"))),
            "validation": line("", event_points(log.of("validation"), "loss")),
        }
        _curves[run] = known = version, lines
    return known[1]


def sweep_folder(call: Call) -> Path:
    """The folder of the sweep that the request names. Raises LorasmithError if it holds none."""
    folder = call.folder("sweep")
    if not is_sweep(folder):
        raise LorasmithError(f"{call.text('sweep')}: holds no sweep (neither {RESULTS} nor {SETTINGS} in it)")
    return folder


def watch(call: Call) -> Response:
    """Sends the sweep as `sweep` when it has changed."""
    # a wrong name is an answer, not the end of a stream that has begun
    sweep_folder(call)
    return stream_state(call.request, "sweep", lambda: show(call), INTERVAL)


PAGE = Page(
    "sweeps",
    "Sweeps",
    35,
    [get("/list", list_sweeps), get("/show", show), get("/curves", curves), get("/watch", watch)],
)

"""The page of the queue: the jobs in `queue` of the first folder of the studio, their order, and what runs them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from starlette.responses import Response

from lorasmith.core.config import override, read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.studio.config_places import check_places, find_configs
from lorasmith.studio.events import stream_state
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.pages.new_run import QUEUE
from lorasmith.studio.process import read_tail, run_json
from lorasmith.training.queue import Job, Queue

RUNNER_LOG = "runner.txt"
SECONDS_TO_START = 10.0
MOST_CONFIGS = 500
ADD_SECONDS = 300.0


def queue_of(call: Call) -> Queue:
    """The queue of the studio."""
    return Queue(call.roots.check(next(iter(call.roots.folders.values())) / QUEUE))


def show(call: Call) -> dict[str, Any]:
    """The queue and its jobs."""
    queue = queue_of(call)
    return {
        "folder": str(queue.folder),
        "exists": queue.exists,
        "paused": queue.paused,
        "runner": queue.runner,
        "jobs": [describe(call, job) for job in queue.jobs()],
    }


def describe(call: Call, job: Job) -> dict[str, Any]:
    """A job as a row, with the position of its run."""
    run = call.roots.name_of(job.output)
    row = call.run_list.row(job.output) if run is not None and job.status.get("began") else None
    row = row or {}
    return {
        "name": job.name,
        "state": job.state,
        "message": job.message,
        "device": job.device,
        "output": str(job.settings["output"]),
        "run": run if row else None,
        "sweep": call.roots.name_of(job.output) if job.over else None,
        "step": row.get("step"),
        "steps": row.get("steps"),
        "loss": row.get("loss"),
        "overrides": list(job.settings.get("overrides") or []),
    }


def watch(call: Call) -> Response:
    """Sends the queue as `queue` when it has changed."""
    return stream_state(call.request, "queue", lambda: show(call))


def configs(call: Call) -> dict[str, Any]:
    """Configs and tables that can be added."""
    roots = list(call.roots.folders.values())
    found = [call.roots.name_of(path) for root in roots for path in find_configs(root)]
    tables = [call.roots.name_of(path) for root in roots for path in sorted(root.glob("*.csv"))]
    return {"configs": found[:MOST_CONFIGS], "tables": tables[:MOST_CONFIGS]}


def add(call: Call) -> dict[str, Any]:
    """Add a config: `config`, `rows` (a table), `folders` (a folder of folders of images), `overrides`."""
    queue = queue_of(call)
    config = call.path("config")
    arguments = ["queue", "add", str(config)]
    variants = [option for option in ("rows", "folders") if call.text(option, "")]
    for option in variants:
        arguments += [f"--{option}", str(call.path(option))]
    # after the config, an argument with `=` in it is an override; an option never begins with a letter
    lines = [line.strip() for line in call.text("overrides", "").split("\n")]
    wrong = next((line for line in lines if line and not (line[0].isalpha() and "=" in line)), None)
    if wrong is not None:
        raise LorasmithError(f'"{wrong}" is not an override; write key=value, for example adapter.rank=8')
    changes = list(filter(None, lines))
    check_places(call.roots, override(read_table(config), changes))
    if variants:
        check_variants(call, [*arguments, *changes])
    result = run_json([*arguments, *changes, "--queue", str(queue.folder)], ADD_SECONDS)
    return {"jobs": [job["job"] for job in result["jobs"]]}


def check_variants(call: Call, arguments: list[str]) -> None:
    """Raises ConfigError if a job that the arguments add reads or writes outside of the folders of the studio: a table
    may name any place, and a folder of images may be a link to one."""
    with tempfile.TemporaryDirectory(prefix="lorasmith-studio-") as temporary:
        for job in run_json([*arguments, "--queue", temporary], ADD_SECONDS)["jobs"]:
            check_places(call.roots, override(read_table(Path(job["config"])), job["overrides"]))


def run(call: Call) -> dict[str, Any]:
    """Go on with the queue, in a process that outlives the studio."""
    queue = queue_of(call)
    if not queue.exists:
        raise LorasmithError("the queue is empty; add a job first")
    queue.set_paused(False)
    if queue.runner is None:
        arguments = ["queue", "run", "--queue", str(queue.folder)]
        call.processes.start(str(queue.folder), arguments, queue.folder / RUNNER_LOG)
        end = time.monotonic() + SECONDS_TO_START
        while queue.runner is None and call.processes.is_running(str(queue.folder)) and time.monotonic() < end:
            time.sleep(0.1)
    return {}


def act(call: Call) -> dict[str, Any]:
    """Do `action` (stop, retry, remove, move, pause) with a `job`; `place` counts from 0."""
    queue, action = queue_of(call), call.text("action")
    if action == "pause":
        queue.set_paused(True)
    elif action == "move":
        queue.move(call.text("job"), call.number("place", 0))
    elif action in ("stop", "retry", "remove"):
        getattr(queue, action)(call.text("job"))
    else:
        raise LorasmithError(f'a queue knows no action "{action}"')
    return {}


def log(call: Call) -> dict[str, Any]:
    """What a job has printed, and its config."""
    job = queue_of(call).job(call.text("job"))
    return {"log": read_tail(job.log), "config": read_config(job.config)}


def read_config(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


PAGE = Page(
    "queue",
    "Queue",
    30,
    [
        get("/show", show),
        get("/watch", watch),
        get("/configs", configs),
        get("/log", log),
        post("/add", add),
        post("/run", run),
        post("/act", act),
    ],
)

"""The page of a new run: a recipe from few answers, a form and the TOML of a config, its check, and the start."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lorasmith.api.recipe import SUBJECTS
from lorasmith.core.config import inline, override
from lorasmith.core.embedded_bases import DEFAULT_BASE, EMBEDDED_BASES
from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import find_holder
from lorasmith.studio import config_places as places
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.process import CONSOLE, run_json
from lorasmith.studio.toml_text import change, parse, read_value
from lorasmith.studio.worker_process import Worker

CHECK_SECONDS = 300.0
MEASURE_SECONDS = 1800.0
CHECKER = Worker()
"""Keeps torch loaded, so that a mistake shows while it is typed."""
QUEUE = "queue"
MOST_NAMES = 500
NOT_SWEPT = ("output", "start", "base", "vae", "base_parts", "plugins", "data", "data.images")
"""Settings that name files or code: each value would have to be looked at."""


def choices(call: Call) -> dict[str, Any]:
    """What can be chosen: bases, folders of images, configs, and where runs go."""
    roots = call.roots.folders.values()
    configs = [call.roots.name_of(path) for root in roots for path in places.find_configs(root)]
    first = next(iter(roots))
    bases = places.bases_below(roots)
    of_the_user = [name for name in bases if name not in EMBEDDED_BASES]
    return {
        "bases": bases[:MOST_NAMES],
        "base": next(iter(of_the_user), DEFAULT_BASE),
        "images": places.image_folders(call.roots),
        "configs": configs[:MOST_NAMES],
        "runs": places.as_text(first if first.name == "runs" else first / "runs"),
        "subjects": list(SUBJECTS),
    }


def make_recipe(call: Call) -> dict[str, Any]:
    """A config from the answers, made as `lorasmith new` makes it."""
    memory = call.body.get("memory")
    answers: dict[str, Any] = {
        "base": call.text("base", DEFAULT_BASE),
        "images": call.text("images", ""),
        "output": call.text("output"),
        "trigger": call.text("trigger", "").strip(),
        "subject": call.text("subject", "character"),
        "memory": float(memory) if isinstance(memory, int | float) else 12.0,
    }
    named = {"base": answers["base"], "output": answers["output"], "data": {"images": answers["images"]}}
    places.check_places(call.roots, named)
    return described(CHECKER.ask("recipe", CHECK_SECONDS, **answers)["toml"])


def open_config(call: Call) -> dict[str, Any]:
    """A config file as text."""
    path = call.path("file")
    if path.suffix != ".toml" or path.stat().st_size > places.LARGEST_CONFIG:
        raise LorasmithError(f"{call.text('file')}: is not a config in TOML")
    return described(path.read_text(encoding="utf-8-sig"))


def edit(call: Call) -> dict[str, Any]:
    """The TOML with `changes` by dotted keys. A change is `{"value": ...}`, `{"toml": "..."}` or null, which removes
    the key."""
    changes = call.body.get("changes") or {}
    if not isinstance(changes, dict):
        raise LorasmithError("`changes` of the request is not a table")
    values = {key: value_of(each) for key, each in changes.items()}
    return described(change(call.text("toml"), values))


def value_of(change: Any) -> Any:
    """The value that a change sets; None removes the key."""
    if not isinstance(change, dict):
        return None
    return read_value(change["toml"]) if isinstance(change.get("toml"), str) else change.get("value")


def described(text: str) -> dict[str, Any]:
    """A config as text, and as values by dotted keys."""
    values: dict[str, Any] = {}
    flatten(parse(text), "", values)
    return {"toml": text, "values": values}


def flatten(table: dict[str, Any], prefix: str, values: dict[str, Any]) -> None:
    """Collect the values of nested tables by dotted keys; the tables themselves too, since some are one value."""
    for key, value in table.items():
        values[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            flatten(value, f"{prefix}{key}.", values)


def check(call: Call) -> dict[str, Any]:
    """The problems of the TOML. `full`: also of base and images; else only of keys and values, which is immediate.
    `trusted`: import the code that the config names."""
    text = call.text("toml")
    places.check_places(call.roots, parse(text))
    full, trusted = call.body.get("full") is True, call.body.get("trusted") is True
    return CHECKER.ask("check", CHECK_SECONDS, text=text, full=full, trusted=trusted)


def measure(call: Call) -> dict[str, Any]:
    """Hours and memory of the run, from two real steps."""
    text = call.text("toml")
    places.check_places(call.roots, parse(text))
    with tempfile.TemporaryDirectory(prefix="lorasmith-studio-") as temporary:
        config = Path(temporary) / "config.toml"
        config.write_text(text, encoding="utf-8")
        return run_json(["check", str(config), "--measure"], MEASURE_SECONDS)


def start(call: Call) -> dict[str, Any]:
    """Save the config beside the folder of its run, and start the run in a process of its own."""
    config, output = saved(call)
    if find_holder(output) is not None or (output / "config.toml").exists():
        raise LorasmithError(f"output: {output} holds a run already; choose another folder, or resume that run")
    output.mkdir(parents=True, exist_ok=True)
    arguments = ["train", str(config), *(["--yes"] if call.body.get("accept_remarks") is True else [])]
    call.processes.start(str(output), arguments, output / CONSOLE)
    return {"run": call.roots.name_of(output), "config": call.roots.name_of(config)}


def enqueue(call: Call) -> dict[str, Any]:
    """Save the config, and add it to the queue in the first folder of the studio."""
    config, _ = saved(call)
    folder = next(iter(call.roots.folders.values())) / QUEUE
    arguments = ["queue", "add", str(config), "--queue", str(folder)]
    result = run_json([*arguments, *(["--yes"] if call.body.get("accept_remarks") is True else [])])
    return {"jobs": [job["job"] for job in result["jobs"]]}


def sweep(call: Call) -> dict[str, Any]:
    """Save the config, and add a sweep of it to the queue: `over` is a list of `key=value,value`."""
    over = call.body.get("over")
    if not isinstance(over, list) or not over or not all(isinstance(text, str) and "=" in text for text in over):
        raise LorasmithError("write at least one setting with its values, such as adapter.rank=4,8,16")
    for text in over:
        key = text.partition("=")[0].strip()
        if key in NOT_SWEPT or key.startswith("data.subsets"):
            raise LorasmithError(f"{key}: names files or code, and cannot vary here; use lorasmith sweep")
    config, output = saved(call)
    folder = output.with_name(f"{output.name}-sweep")
    queue = next(iter(call.roots.folders.values())) / QUEUE
    arguments = ["queue", "add", str(config), f"output={inline(places.as_text(folder))}", "--queue", str(queue)]
    result = run_json([*arguments, *(f"--over={text}" for text in over)])
    return {"jobs": [job["job"] for job in result["jobs"]], "sweep": call.roots.name_of(folder)}


def progress(call: Call) -> dict[str, Any]:
    """Whether a run that was just started has begun, and what it has printed if it has failed."""
    folder = call.path("run")
    key = str(folder)
    code = call.processes.exit_code(key)
    console = folder / CONSOLE
    text = console.read_text(encoding="utf-8", errors="replace")[-4000:] if console.is_file() else ""
    return {"begun": (folder / "events.jsonl").is_file(), "exit_code": code, "console": text}


def saved(call: Call) -> tuple[Path, Path]:
    """The config of the request, written beside the folder of its run, and that folder."""
    text = call.text("toml")
    table = override(parse(text), [])
    places.check_places(call.roots, table)
    output = call.roots.check(Path(table["output"]).expanduser())
    return places.save_config(text, output), output


PAGE = Page(
    "new_run",
    "New run",
    15,
    [
        get("/choices", choices),
        get("/open", open_config),
        get("/progress", progress),
        post("/recipe", make_recipe),
        post("/edit", edit),
        post("/check", check),
        post("/measure", measure),
        post("/start", start),
        post("/queue", enqueue),
        post("/sweep", sweep),
    ],
)

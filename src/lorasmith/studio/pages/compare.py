"""The page to compare LoRA files: the same prompts and seeds for each file and strength, and a file to pass on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.studio.config_places import SMALLEST_MODEL, bases_below, check_tags, checked_base, files_below
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.process import run_json

FOLDER = "compare"
"""In the first folder of the studio; pictures that are there already are not drawn again."""
DRAW_SECONDS = 1800.0
SHIP_SECONDS = 120.0
MOST_FILES = 1000
CARD = {
    "trigger": "trigger",
    "title": "title",
    "author": "author",
    "license": "license",
    "notes": "notes",
    "hint": "hint",
}


def choices(call: Call) -> dict[str, Any]:
    """The LoRA files below the folders, newest first, and the bases."""
    roots = list(call.roots.folders.values())
    found = sorted({path for root in roots for path in loras_below(root, call)}, key=changed, reverse=True)
    return {"files": [call.roots.name_of(path) for path in found[:MOST_FILES]], "bases": bases_below(roots)}


def loras_below(root: Path, call: Call) -> Iterator[Path]:
    """LoRA files outside of runs, and the exports of runs."""
    yield from (path for path in files_below(root) if path.suffix == ".safetensors")
    for folder in call.run_list.folders():
        yield from (path for path in folder.glob("*.safetensors") if path.stat().st_size < SMALLEST_MODEL)


def changed(path: Path) -> float:
    return path.stat().st_mtime


def draw(call: Call) -> dict[str, Any]:
    """Draw `prompts` with `file` at `strength`, with `count` seeds from `seed`; the base alone without a file."""
    prompts = prompts_of(call)
    base = checked_base(call.roots, call.text("base"))
    arguments = ["sample", "--base", base, "--count", str(call.number("count", 1))]
    arguments += ["--seed", str(call.number("seed", 0)), *(f"--prompt={text}" for text in prompts)]
    file = call.path("file") if call.text("file", "") else None
    check_tags(prompts, [] if file is None else [file])
    version = ""
    if file is not None:
        arguments += ["--lora", f"{file}:{strength_of(call):g}"]
        version = str(file.stat().st_mtime_ns)
    key = hashlib.sha256(json.dumps([arguments, version]).encode()).hexdigest()[:16]
    folder = call.roots.check(next(iter(call.roots.folders.values())) / FOLDER / key)
    record = folder / "files.json"
    if not record.is_file():
        result = run_json([*arguments, "--output", str(folder)], DRAW_SECONDS)
        record.write_text(json.dumps([Path(file).name for file in result["files"]]), encoding="utf-8")
    names = json.loads(record.read_text(encoding="utf-8"))
    return {"pictures": [call.roots.name_of(folder / name) for name in names]}


def prompts_of(call: Call) -> list[str]:
    """The prompts of the request. Raises LorasmithError if there are none."""
    prompts = [text for text in call.body.get("prompts") or [] if isinstance(text, str) and text.strip()]
    if not prompts:
        raise LorasmithError("write at least one prompt")
    return prompts


def strength_of(call: Call) -> float:
    """The strength of the request; 1 without one."""
    strength = call.body.get("strength", 1)
    if not isinstance(strength, int | float):
        raise LorasmithError("`strength` of the request is not a number")
    return strength


def ship(call: Call) -> dict[str, Any]:
    """Write a copy of `file` beside it that is ready to be passed on, with `picture` and the texts of the card."""
    file = call.path("file")
    output = file.with_name(f"{file.stem}-ship.safetensors")
    arguments = ["ship", str(file), "--output", str(output)]
    if call.text("picture", ""):
        arguments += ["--picture", str(call.path("picture"))]
    arguments += [f"--{key}={call.text(key, '')}" for key in CARD]
    if call.body.get("overwrite") is True:
        arguments.append("--overwrite")
    run_json(arguments, SHIP_SECONDS)
    return {"file": call.roots.name_of(output)}


PAGE = Page("compare", "Compare", 40, [get("/choices", choices), post("/draw", draw), post("/ship", ship)])

"""The page of LoRA files: what is in them, and new files from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.pages.compare import choices
from lorasmith.studio.process import run_json

SECONDS = 1800.0
OPTIONS = {"resize": ("rank", "energy", "base"), "convert": ("to", "rank", "base"), "strip": ("to",)}
"""Commands that make one file of another one, with the options that the page offers."""


def inspect(call: Call) -> dict[str, Any]:
    """What `lorasmith inspect` says about `file`."""
    return run_json(["inspect", str(call.path("file"))], SECONDS)


def change(call: Call) -> dict[str, Any]:
    """Make a new file beside `file` by `command`, with `options`; returns the report of the command."""
    command = call.text("command")
    options = call.body.get("options") or {}
    if command not in OPTIONS or not isinstance(options, dict):
        raise LorasmithError(f'the page of files knows no command "{command}"')
    file = call.path("file")
    output = file.with_name(f"{file.stem}-{new_name(call)}.safetensors")
    arguments = [command, str(file), "--output", str(output)]
    arguments += [f"--{key}={options[key]}" for key in OPTIONS[command] if options.get(key) not in (None, "")]
    return {"file": call.roots.name_of(output), "report": run_json(arguments, SECONDS)}


def combine(call: Call) -> dict[str, Any]:
    """Add `files`, each `{"file": ..., "strength": ...}`, into one file beside the first one."""
    files = call.body.get("files")
    if not isinstance(files, list) or len(files) < 2 or not all(is_use(each) for each in files):
        raise LorasmithError("choose at least two files with strengths")
    paths = [call.roots.resolve(each["file"]) for each in files]
    output = paths[0].with_name(f"{new_name(call)}.safetensors")
    uses = [f"{path}:{each['strength']:g}" for path, each in zip(paths, files, strict=True)]
    report = run_json(["combine", *uses, "--output", str(output)], SECONDS)
    return {"file": call.roots.name_of(output), "report": report}


def is_use(value: Any) -> bool:
    """Whether a value names a file with its strength."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("file"), str)
        and isinstance(value.get("strength"), int | float)
    )


def new_name(call: Call) -> str:
    """The name of the new file, which cannot lead into another folder."""
    name = call.text("name")
    if not name or Path(name).name != name or name.startswith(".") or "\\" in name:
        raise LorasmithError(f'"{name}" cannot be the name of a file')
    return name


PAGE = Page(
    "files",
    "Files",
    60,
    [get("/choices", choices), get("/inspect", inspect), post("/change", change), post("/combine", combine)],
)

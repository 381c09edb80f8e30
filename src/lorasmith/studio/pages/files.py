"""The page of LoRA files: what is in them, and new files from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.studio.config_places import checked_base
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.pages.compare import choices
from lorasmith.studio.pages.new_run import CHECKER
from lorasmith.studio.process import run_json

SECONDS = 1800.0
OPTIONS = {
    "resize": ("rank", "energy", "base"),
    "convert": ("to", "rank", "base"),
    "strip": ("to",),
    "fuse": ("base", "method", "rank"),
    "extract": ("rank", "energy"),
}
"""Commands that write files, with the options that the page offers."""
OF_ONE_FILE = ("resize", "convert", "strip")


def inspect(call: Call) -> dict[str, Any]:
    """What `lorasmith inspect` says about `file`."""
    # torch takes seconds to import; the helper process has it loaded
    return CHECKER.ask("inspect", SECONDS, file=str(call.path("file")))


def change(call: Call) -> dict[str, Any]:
    """Make a new file beside `file` by `command`, with `options`; returns the report of the command."""
    command = call.text("command")
    options = call.body.get("options") or {}
    if command not in OF_ONE_FILE or not isinstance(options, dict):
        raise LorasmithError(f'the page of files knows no command "{command}"')
    file = call.path("file")
    output = file.with_name(f"{file.stem}-{new_name(call)}.safetensors")
    arguments = [command, str(file), "--output", str(output)]
    arguments += options_of(call, command, options)
    return {"file": call.roots.name_of(output), "report": run_json(arguments, SECONDS)}


def options_of(call: Call, command: str, options: dict[str, Any]) -> list[str]:
    """The options that a command has, as arguments; a base must be below the folders if it is a path."""
    given = {key: str(options[key]) for key in OPTIONS[command] if options.get(key) not in (None, "")}
    if "base" in given:
        given["base"] = checked_base(call.roots, given["base"])
    return [f"--{key}={value}" for key, value in given.items()]


def combine(call: Call) -> dict[str, Any]:
    """Add `files`, each `{"file": ..., "strength": ...}`, into one file beside the first one."""
    paths, uses = chosen(call, 2)
    output = paths[0].with_name(f"{new_name(call)}.safetensors")
    report = run_json(["combine", *uses, "--output", str(output)], SECONDS)
    return {"file": call.roots.name_of(output), "report": report}


def fuse(call: Call) -> dict[str, Any]:
    """Fuse `files`, each with `strength` and the `name` of its concept in prompts, into one file beside the first one:
    `options` has `base` and, if wanted, `method` and `rank`."""
    paths, uses = chosen(call, 2)
    names = [str(each.get("name") or path.stem) for each, path in zip(call.body["files"], paths, strict=True)]
    output = paths[0].with_name(f"{new_name(call)}.safetensors")
    options = options_of(call, "fuse", table_of(call, "options"))
    if not any(option.startswith("--base=") for option in options):
        raise LorasmithError("base: is missing; fusing draws pictures with the base model of the LoRAs")
    named = [f"{use}={name}" for use, name in zip(uses, names, strict=True)]
    report = run_json(["fuse", *named, *options, "--output", str(output)], SECONDS)
    return {"file": call.roots.name_of(output), "report": report}


def merge(call: Call) -> dict[str, Any]:
    """Write `base` with `files` merged into its weights, in its own layout, beside the first file."""
    paths, uses = chosen(call, 1)
    base = checked_base(call.roots, call.text("base"))
    suffix = ".safetensors" if base.endswith(".safetensors") else ""
    output = paths[0].with_name(f"{new_name(call)}{suffix}")
    report = run_json(["merge", base, *uses, "--output", str(output)], SECONDS)
    return {"file": call.roots.name_of(output), "report": report}


def extract(call: Call) -> dict[str, Any]:
    """Write the difference of the models `tuned` and `base` as a LoRA into the first folder of the studio."""
    models = [checked_base(call.roots, call.text(key)) for key in ("tuned", "base")]
    output = call.roots.check(next(iter(call.roots.folders.values())) / f"{new_name(call)}.safetensors")
    options = options_of(call, "extract", table_of(call, "options"))
    report = run_json(["extract", *models, *options, "--output", str(output)], SECONDS)
    return {"file": call.roots.name_of(output), "report": report}


def chosen(call: Call, fewest: int) -> tuple[list[Path], list[str]]:
    """The chosen `files`, and each with its strength as a command takes it."""
    files = call.body.get("files")
    if not isinstance(files, list) or len(files) < fewest or not all(is_use(each) for each in files):
        raise LorasmithError(f"choose at least {'two files' if fewest == 2 else 'one file'}, each with a strength")
    paths = [call.roots.resolve(each["file"]) for each in files]
    return paths, [f"{path}:{each['strength']:g}" for path, each in zip(paths, files, strict=True)]


def table_of(call: Call, key: str) -> dict[str, Any]:
    """A table of the request; empty without one."""
    table = call.body.get(key) or {}
    if not isinstance(table, dict):
        raise LorasmithError(f"`{key}` of the request is not a table")
    return table


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
    [
        get("/choices", choices),
        get("/inspect", inspect),
        post("/change", change),
        post("/combine", combine),
        post("/fuse", fuse),
        post("/merge", merge),
        post("/extract", extract),
    ],
)

"""Prompts: emphasis (`families.emphasis`), LoRA tags, files of prompts.

`<lora:name:0.8>` asks for a LoRA at a strength.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.core.config import read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion.emphasis import count_windows, encode

__all__ = ["LoraTag", "count_windows", "encode", "parse_line", "read_prompts", "split_loras"]

LORA_TAG = re.compile(r"<(?:lora|lyco):([^:>]+)(?::([^:>]*))?(?::([^:>]*))?>")


@dataclass(frozen=True)
class LoraTag:
    """`<lora:name:te:unet>`; one number stands for both."""

    name: str
    text: float = 1.0
    unet: float = 1.0


def split_loras(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its LoRA tags, and the tags. Raises LorasmithError if a strength is not a number."""
    tags = []
    for match in LORA_TAG.finditer(prompt):
        name, first, second = match.groups()
        try:
            text = float(first) if first else 1.0
            tags.append(LoraTag(name.strip(), text, float(second) if second else text))
        except ValueError:
            raise LorasmithError(
                f"{match.group()}: the strength is not a number; write <lora:name:0.8>, or <lora:name:text:unet>"
            ) from None
    return " ".join(LORA_TAG.sub(" ", prompt).split()) if tags else prompt, tags


OPTIONS: dict[str, tuple[str, type[Any]]] = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("cfg", float),
    "ss": ("sampler", str),
}
KEYS: dict[str, tuple[str, type[Any]]] = {
    **{name: (name, read) for name, read in OPTIONS.values()},
    "prompt": ("prompt", str),
    "negative_prompt": ("negative", str),
    "sample_steps": ("steps", int),
    "scale": ("cfg", float),
    "sample_sampler": ("sampler", str),
    "clip_skip": ("clip_skip", int),
    "rescale": ("rescale", float),
    "apart": ("apart", float),
    "regions": ("regions", list),
    "controls": ("controls", list),
}
"""Keys of TOML and JSON files, ours and sd-scripts', to the name in a request."""


SCENE = {"regions", "controls"}
"""Keys that say of a file that it is one picture."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """A file of prompts: `.txt` with one a line (`#` is a comment; options such as `--n blurry --d 7`), or `.toml` and
    `.json` as sd-scripts has them: a list of tables, or defaults in `prompt` and the tables in `prompt.subset`.

    Each result is a table with `prompt` and what it asks for besides. Sides are rounded down to multiples of 8, at
    least 64, as sd-scripts does. A file with `regions` or `controls` at its top is one picture, a scene.
    Raises LorasmithError, naming the line or table, for what is unknown or does not fit.
    """
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file of prompts")
    if path.suffix.lower() in (".toml", ".json"):
        found = read_scenes(path)
        if any("prompt" not in scene for scene in found):
            raise LorasmithError(f"{path}: there is no `prompt` for the whole picture in it; add it, or give --prompt")
    else:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        found = [parse_line(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line and line[0] != "#"]
    if not found:
        raise LorasmithError(f"{path}: there is no prompt in it")
    return found


def read_scenes(path: Path) -> list[dict[str, Any]]:
    """The tables of a TOML or JSON file; one with `regions` may lack its prompt. Raises as `read_prompts`."""
    tables = _tables(path, read_table(path))
    return [_typed(table, KEYS, f"{path}: prompt {i}") for i, table in enumerate(tables, 1)]


def _tables(path: Path, content: Any) -> list[dict[str, Any]]:
    tables: Any = content
    if isinstance(content, dict) and content.keys() & SCENE:
        tables = [content]
    elif isinstance(content, dict):
        shared = content.get("prompt", {})
        shared = dict(shared) if isinstance(shared, dict) else {"subset": shared}
        subsets = shared.pop("subset", [shared] if "prompt" in shared else [])
        tables = [{**shared, **t} if isinstance(t, dict) else t for t in subsets] if isinstance(subsets, list) else None
    if not isinstance(tables, list) or not all(
        isinstance(t, dict) and t.keys() & {"prompt", "regions"} for t in tables
    ):
        raise LorasmithError(f"{path}: expected a list of tables, each with a `prompt`")
    return tables


def parse_line(line: str, place: str = "") -> dict[str, Any]:
    """One prompt with its `--` options. Raises LorasmithError for an unknown option or a value that does not fit."""
    prompt, *options = re.split(r"(?:^|\s+)--(?=[A-Za-z]+(?:\s|$))", line)
    table: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition(" ")
        table[key] = value.strip()
    return {"prompt": prompt.strip()} | _typed(table, OPTIONS, place, "--")


def _typed(
    table: dict[str, Any], known: dict[str, tuple[str, type[Any]]], place: str, sign: str = ""
) -> dict[str, Any]:
    """The table with our names and types."""
    result: dict[str, Any] = {}
    start = f"{place}: " if place else ""
    for key, value in table.items():
        if key not in known:
            listed = ", ".join(sign + k for k in known)
            raise LorasmithError(f"{start}unknown option {sign}{key}; known: {listed}")
        name, read = known[key]
        try:
            result[name] = read(value)
        except (TypeError, ValueError):
            kind = {int: "a whole number", list: "a list of tables"}.get(read, "a number")
            raise LorasmithError(f"{start}{sign}{key} is {value!r}, which is not {kind}") from None
        if name in ("width", "height"):
            result[name] = max(64, result[name] // 8 * 8)
    return result

"""Reading prompts: LoRA tags (`<lora:name:0.8>`), `--` options on a line, and files of prompts.

Emphasis in prompts is part of text encoding (`families.stable_diffusion.emphasis`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lorasmith.core.config import read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.core.text_files import read_text

# <lora:name>, <lora:name:strength> or <lora:name:text:unet>; `lyco` is the tag of the LyCORIS extension
_LORA_TAG = re.compile(r"<(?:lora|lyco):([^:>]+)(?::([^:>]*))?(?::([^:>]*))?>")
# two hyphens and a word are an option only at a word boundary, so that "a cat -- really" stays a prompt
_OPTION_START = re.compile(r"(?:^|\s+)--(?=[A-Za-z]+(?:\s|$))")

Reader = Callable[[Any], Any]
"""From the value in a file to that of a `Request`; raises TypeError or ValueError."""


def condition_pictures(value: Any) -> dict[str, Path]:
    """The picture of each condition by its name, from a table or from `pose=pose.png,depth=depth.png`."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {name: Path(str(path)) for name, path in table.items()}
    pairs = [pair.partition("=") for pair in str(value).split(",")]
    if not all(name.strip() and sign and path.strip() for name, sign, path in pairs):
        raise ValueError
    return {name.strip(): Path(path.strip()) for name, _, path in pairs}


OPTIONS: dict[str, tuple[str, Reader]] = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("cfg", float),
    "g": ("guidance", float),
    "ss": ("sampler", str),
    "cn": ("conditions", condition_pictures),
}
"""sd-scripts' options on a line (`--d 42`): the field of a `Request` and its type."""

KEYS: dict[str, tuple[str, Reader]] = {
    **{name: (name, value_type) for name, value_type in OPTIONS.values()},
    "prompt": ("prompt", str),
    "negative_prompt": ("negative", str),
    "sample_steps": ("steps", int),
    "scale": ("cfg", float),
    "guidance_scale": ("guidance", float),
    "sample_sampler": ("sampler", str),
    "clip_skip": ("clip_skip", int),
    "rescale": ("rescale", float),
    "apart": ("apart", float),
    "regions": ("regions", list),
    "controls": ("controls", list),
    "conditions": ("conditions", condition_pictures),
}
"""Keys of TOML and JSON files, ours and sd-scripts': the field of a `Request` and its type."""

EXPECTED: dict[Reader, str] = {
    int: "a whole number",
    list: "a list of tables",
    condition_pictures: "of the form NAME=PICTURE or a table of such",
}
"""What values must be, for errors; other values are numbers."""
SCENE_KEYS = {"regions", "controls"}
"""A file with one of these keys at its top describes one picture, a scene."""


@dataclass(frozen=True)
class LoraTag:
    """`<lora:name:text:unet>`; a single number is the strength of both."""

    name: str
    text: float = 1.0
    unet: float = 1.0


def split_loras(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its LoRA tags, and the tags. Raises LorasmithError if a strength is not a number."""
    tags = []
    for match in _LORA_TAG.finditer(prompt):
        name, first, second = match.groups()
        try:
            # one number is the strength of both; with two, the first one is that of the text encoders
            text = float(first) if first else 1.0
            unet = float(second) if second else text
            if not (math.isfinite(text) and math.isfinite(unet)):
                raise ValueError
        except ValueError:
            raise LorasmithError(
                f"{match.group()}: the strength is not a number; write <lora:name:0.8>, or <lora:name:text:unet>"
            ) from None
        tags.append(LoraTag(name.strip(), text, unet))
    if not tags:
        return prompt, []
    # a tag in the middle of a prompt leaves two spaces
    without_tags = _LORA_TAG.sub(" ", prompt)
    return " ".join(without_tags.split()), tags


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read a file of prompts as tables with `prompt` and other fields of a `Request`.

    `.txt`: a prompt on each line, with options such as `--n blurry --d 7`; lines that start with `#` are comments.
    `.toml` and `.json`: as in sd-scripts, a list of tables, or defaults in `prompt` and tables in `prompt.subset`. A
    file with `regions` or `controls` at its top describes one picture, a scene. Width and height are rounded down to
    multiples of 8, at least 64, as in sd-scripts.

    Raises LorasmithError, with the line or table, for unknown keys and wrong values.
    """
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file of prompts")
    if path.suffix.lower() in (".toml", ".json"):
        tables = read_prompt_tables(path)
        if any("prompt" not in table for table in tables):
            raise LorasmithError(f"{path}: there is no `prompt` for the whole picture in it; add it, or give --prompt")
    else:
        tables = []
        for number, line in enumerate(read_text(path).splitlines(), 1):
            line = line.strip()
            if line and not line.startswith("#"):
                tables.append(parse_line(line, f"{path}:{number}"))
    if not tables:
        raise LorasmithError(f"{path}: there is no prompt in it")
    return tables


def read_prompt_tables(path: Path) -> list[dict[str, Any]]:
    """The tables of a TOML or JSON file; one with `regions` may lack its prompt. Raises as `read_prompts`."""
    tables = _find_tables(read_table(path))
    if tables is None:
        raise LorasmithError(f"{path}: expected a list of tables, each with a `prompt`")
    return [_convert(table, KEYS, f"{path}: prompt {number}") for number, table in enumerate(tables, 1)]


def _find_tables(content: Any) -> list[dict[str, Any]] | None:
    """The table of each picture in the content of a file, with shared defaults filled in; None for other content."""
    tables: Any = content
    if isinstance(content, dict):
        tables = [content] if content.keys() & SCENE_KEYS else _merge_defaults(content)
    if not isinstance(tables, list):
        return None
    for table in tables:
        if not isinstance(table, dict) or not table.keys() & {"prompt", "regions"}:
            return None
    return tables


def _merge_defaults(content: dict[str, Any]) -> Any:
    """The tables of sd-scripts' layout: `prompt` holds defaults and a list `subset`, or is itself one table or a list.

    The content may be anything; what is not a list of tables is for the caller to refuse.
    """
    prompt = content.get("prompt", {})
    if not isinstance(prompt, dict):
        return prompt
    defaults = {key: value for key, value in prompt.items() if key != "subset"}
    if "subset" not in prompt:
        return [defaults] if "prompt" in defaults else []
    subset = prompt["subset"]
    if not isinstance(subset, list):
        return None
    return [{**defaults, **table} if isinstance(table, dict) else table for table in subset]


def parse_line(line: str, place: str = "") -> dict[str, Any]:
    """One prompt with its `--` options as a table. `place`: file and line, for errors.

    Raises LorasmithError for an unknown option or a wrong value.
    """
    prompt, *options = _OPTION_START.split(line)
    table: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition(" ")
        table[key] = value.strip()
    return {"prompt": prompt.strip(), **_convert(table, OPTIONS, place, prefix="--")}


def _convert(
    table: dict[str, Any], known: dict[str, tuple[str, Reader]], place: str, prefix: str = ""
) -> dict[str, Any]:
    """The table with the fields of a `Request` as keys and values of their types. `prefix`: of options in errors."""
    where = f"{place}: " if place else ""
    converted: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            listed = ", ".join(prefix + name for name in known)
            raise LorasmithError(f"{where}unknown option {prefix}{key}; known: {listed}")
        field, value_type = known[key]
        try:
            converted[field] = value_type(value)
        except (TypeError, ValueError):
            expected = EXPECTED.get(value_type, "a number")
            raise LorasmithError(f"{where}{prefix}{key} is {value!r}, which is not {expected}") from None
        # As in sd-scripts: rounded down to what the VAE needs, and at least 64.
        if field in ("width", "height"):
            converted[field] = max(64, converted[field] // DOWNSCALE * DOWNSCALE)
    return converted

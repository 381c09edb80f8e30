"""Reading TOML as people write it: keys that come twice, sections that come twice, sections without meaning."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

KEY = re.compile(r"""\s*(?P<key>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=""")
SECTION = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]\s*(?:#.*)?$")
LONGEST = 400
"""Lines that one value may take."""


def read_file(path: Path) -> dict[str, Any]:
    """The table of a TOML or JSON file; `.toml` may be missing from its name.

    Of keys that come twice in a section, the last one counts; a section that comes twice is one. Raises LorasmithError
    with the line of a syntax error.
    """
    if not path.is_file() and path.with_name(f"{path.name}.toml").is_file():
        path = path.with_name(f"{path.name}.toml")
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8-sig")
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise LorasmithError(f"{path}: not valid JSON: {error}") from None
    except tomllib.TOMLDecodeError as error:
        first = error
    try:
        return tomllib.loads(without_doubles(text))
    except tomllib.TOMLDecodeError:
        hint = "\nwrite Windows paths with / or in single quotes: 'C:\\images'" if "\\" in text else ""
        raise LorasmithError(f"{path}: not valid TOML: {first}{hint}") from None


def without_doubles(text: str) -> str:
    """TOML in which each key stands once in its section, with its last value, and each `[section]` once."""
    sections: dict[str, dict[str, str]] = {"": {}}
    current = sections[""]
    arrays = 0
    for statement in statements(text):
        section = SECTION.match(statement)
        key = KEY.match(statement)
        if section:
            current = sections.setdefault(f"[{section['name'].strip()}]", {})
        elif statement.lstrip().startswith("[["):
            arrays += 1
            current = sections.setdefault(f"{statement.strip()} #{arrays}", {})
        elif key:
            current[key["key"]] = statement
        elif statement.strip() and not statement.lstrip().startswith("#"):
            current[statement] = statement
    return "\n".join(line for head, keys in sections.items() for line in (head, *keys.values()))


def statements(text: str) -> list[str]:
    """Lines, with those of a value over several lines joined."""
    lines = text.splitlines()
    found: list[str] = []
    place = 0
    while place < len(lines):
        end = place + 1
        if KEY.match(lines[place]):
            end = next((e for e in range(end, min(len(lines), place + LONGEST) + 1) if whole(lines[place:e])), end)
        found.append("\n".join(lines[place:end]))
        place = end
    return found


def whole(lines: list[str]) -> bool:
    """Whether lines are TOML by themselves."""
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def flat(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Sections have no meaning: top-level values and those of one level of sections in one table, the last one counts.

    Deeper tables are left out with a warning.
    """
    found: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in table.items():
        for key, inner in value.items() if isinstance(value, dict) else [(name, value)]:
            if isinstance(inner, dict) and key not in ("network_args", "optimizer_args"):
                warnings.append(f"the table [{name}.{key}] is left out: only one level of sections is read")
            else:
                found[key] = inner
    return found, warnings

"""Reads TOML files as people write them: with repeated keys, repeated sections, and sections without meaning."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from lorasmith.compat.foreign_keys import foreign_file
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import parse_json_table, parse_toml, read_text, require_size

KEY = re.compile(r"""\s*(?P<key>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=""")
SECTION = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]\s*(?:#.*)?$")
CLOSING = re.compile(r"""[\]}"'].*$""")
"""In a line that may be the last one of a value."""
MAX_VALUE_LINES = 400
"""How many lines one value may have."""


def read_file(path: Path) -> dict[str, Any]:
    """The table of a TOML or JSON file; the suffix `.toml` may be omitted.

    If a key occurs twice in a section, the last value counts; sections of the same name are merged. Raises
    LorasmithError with the line of a syntax error.
    """
    # The original adds the suffix itself.
    with_suffix = path.with_name(f"{path.name}.toml")
    if not path.is_file() and with_suffix.is_file():
        path = with_suffix
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file")
    text = read_text(path)
    if path.suffix.lower() == ".json":
        table = parse_json_table(text, path)
        if "LoRA_type" in table and "network_module" not in table:
            raise foreign_file("LoRA_type", str(path))
        return table
    require_size(text, path, "TOML")
    try:
        return parse_toml(text, path)
    except LorasmithError as error:
        first_error = error

    # Repeated keys are an error in TOML. Other errors remain without them; the first message has the right line.
    try:
        return parse_toml(remove_repetitions(text), path)
    except (LorasmithError, RecursionError):
        raise first_error from None


def remove_repetitions(text: str) -> str:
    """TOML in which each key of a section occurs once, with its last value, and each `[section]` once."""
    sections: dict[str, dict[str, str]] = {"": {}}
    current = sections[""]
    arrays = 0
    for statement in split_statements(text):
        section = SECTION.match(statement)
        key = KEY.match(statement)

        # Statements are stored by their key: a later one replaces an earlier one in the same place.
        if section:
            header = f"[{section['name'].strip()}]"
            current = sections.setdefault(header, {})
        elif statement.lstrip().startswith("[["):
            # Each [[header]] starts a new element; the number in a comment keeps the headers distinct.
            arrays += 1
            current = sections.setdefault(f"{statement.strip()} #{arrays}", {})
        elif key:
            current[key["key"]] = statement
        elif statement.strip() and not statement.lstrip().startswith("#"):
            current[statement] = statement
    lines: list[str] = []
    for header, statements in sections.items():
        lines += [header, *statements.values()]
    return "\n".join(lines)


def split_statements(text: str) -> list[str]:
    """The lines of a TOML file, with the lines of a value that spans several of them joined."""
    lines = text.splitlines()
    statements: list[str] = []
    start = 0
    while start < len(lines):
        end = start + 1
        if KEY.match(lines[start]):
            end = end_of_value(lines, start)
        # A value without end is an error of syntax, and what follows need not be understood.
        if end is None:
            return [*statements, *lines[start:]]
        statements.append("\n".join(lines[start:end]))
        start = end
    return statements


def end_of_value(lines: list[str], start: int) -> int | None:
    """The line behind the value that begins in line `start`; None if it has no end."""
    if is_toml(lines[start : start + 1]):
        return start + 1
    # It ends at the first line at which the statement is complete TOML; only lines that close something can be it.
    for end in range(start + 2, min(len(lines), start + MAX_VALUE_LINES) + 1):
        if CLOSING.search(lines[end - 1]) and is_toml(lines[start:end]):
            return end
    return None


def is_toml(lines: list[str]) -> bool:
    """Whether lines are complete TOML by themselves."""
    try:
        tomllib.loads("\n".join(lines))
    except ValueError:
        return False
    return True


def flatten_sections(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Top-level values and those of one level of sections in one table, and warnings.

    Sections have no meaning in the original; of equal keys the last one counts. Deeper tables are ignored with a
    warning.
    """
    flat: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in table.items():
        entries = value if isinstance(value, dict) else {name: value}
        for key, entry in entries.items():
            if isinstance(entry, dict) and key not in ("network_args", "optimizer_args"):
                warnings.append(f"the table [{name}.{key}] is ignored: only one level of sections is read")
            else:
                flat[key] = entry
    return flat, warnings

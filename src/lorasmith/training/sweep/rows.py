"""Rows of a sweep: runs that differ in several settings at once, such as thirty characters, from a CSV or TOML file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.core.config import inline
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import parse_toml, read_text
from lorasmith.training.sweep.axes import Values
from lorasmith.training.sweep.jobs import dotted_keys

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def read_rows(path: Path) -> list[Values]:
    """The rows of a CSV file, whose first line has the keys, or of a TOML file with `[[rows]]`. Empty cells are left
    out. Raises LorasmithError for a file without rows, and for names that come twice."""
    text = read_text(path)
    rows = csv_rows(text, path) if path.suffix.lower() == ".csv" else toml_rows(text, path)
    if not rows:
        raise LorasmithError(f"{path}: there are no rows in it; write a line of keys and a line for each run")
    names = [row["name"] for row in rows if "name" in row]
    for name in names:
        if names.count(name) > 1:
            raise LorasmithError(f"{path}: two rows have the name {name}; each LoRA needs its own")
    return rows


def csv_rows(text: str, path: Path) -> list[Values]:
    """Keys in the first line, a run in each further one; values as on the command line."""
    # spreadsheets of some countries write semicolons
    delimiter = ";" if ";" in text.split("\n")[0] else ","
    # a carriage return alone ends a line too, as old spreadsheets write it
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise LorasmithError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    keys = [cell.strip() for cell in lines[0]] if lines else []
    rows: list[Values] = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) > len(keys):
            raise LorasmithError(f"{path}: line {number} has {len(line)} cells for {len(keys)} keys")
        rows.append({key: cell.strip() for key, cell in zip(keys, line, strict=False) if cell.strip()})
    return rows


def toml_rows(text: str, path: Path) -> list[Values]:
    """`[[rows]]` with settings as in a config."""
    tables: Any = parse_toml(text, path).get("rows", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise LorasmithError(f"{path}: rows must be tables; write [[rows]] above the settings of each run")
    return [{key: inline(value) for key, value in dotted_keys(table).items()} for table in tables]


def readable_name(values: Values) -> str:
    """The name that a row gives its LoRA, if it can be that of a folder; else an empty text."""
    name = values.get("name", "").strip("\"'")
    return name if FILE_NAME.fullmatch(name) else ""


def keys_of(values: Sequence[Values]) -> list[str]:
    """Every key that a run has, in the order of the first that has it."""
    return list(dict.fromkeys(key for row in values for key in row))

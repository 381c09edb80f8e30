"""Changes of a config as text, which keep its comments and the order of its lines."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from lorasmith.core.errors import LorasmithError


def parse(text: str) -> dict[str, Any]:
    """The table of a text. Raises LorasmithError with the line of a mistake."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LorasmithError(f"the TOML cannot be read: {error}") from None


def change(text: str, changes: Mapping[str, Any]) -> str:
    """The text with dotted keys set to other values; a value of None removes the key.

    Raises LorasmithError for a text that is not TOML, and for a key that leads through a plain value.
    """
    parse(text)
    try:
        document = tomlkit.parse(text)
        for key, value in changes.items():
            if value is None:
                remove(document, key.split("."))
            else:
                put(document, key.split("."), value)
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise LorasmithError(f"the TOML cannot be changed: {error}") from None


def put(table: Any, keys: list[str], value: Any) -> None:
    """Set the value of a nested key; tables that are missing are added at the end."""
    *parents, last = keys
    for depth, parent in enumerate(parents):
        if parent not in table:
            table[parent] = tomlkit.table(is_super_table=depth < len(parents) - 1)
        elif isinstance(table[parent], str):
            # `adapter = "lora"` stands for the table with this kind
            inner = tomlkit.inline_table()
            inner["kind"] = str(table[parent])
            table[parent] = inner
        table = table[parent]
        if not isinstance(table, dict):
            raise LorasmithError(f"{'.'.join(keys)}: {parent} holds a plain value or a list; change it in the TOML")
    if table.get(last) != value or type(table.get(last)) is not type(value):
        table[last] = value


def remove(table: Any, keys: list[str]) -> None:
    """Remove a nested key, if it is there."""
    *parents, last = keys
    for parent in parents:
        table = table.get(parent) if isinstance(table, dict) else None
    if isinstance(table, dict):
        cast("dict[str, Any]", table).pop(last, None)


def read_value(text: str) -> Any:
    """A value as it is written in TOML. Raises LorasmithError if it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        raise LorasmithError(f"{text[:80]} is not a value as TOML writes it: texts in quotes, lists in []") from None

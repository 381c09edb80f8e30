"""JSON in the metadata of files. Other programs wrote it, so any of it can be damaged or of another type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_value(metadata: Mapping[str, str], key: str) -> Any:
    """The value of a metadata entry that holds JSON; None if it is absent, empty, or not JSON."""
    text = metadata.get(key)
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_list(metadata: Mapping[str, str], key: str) -> list[Any]:
    """The list of a metadata entry; empty if it is not a list."""
    value = json_value(metadata, key)
    return value if isinstance(value, list) else []


def json_table(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """The object of a metadata entry; empty if it is not an object."""
    value = json_value(metadata, key)
    return value if isinstance(value, dict) else {}

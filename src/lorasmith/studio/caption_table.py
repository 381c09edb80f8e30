"""Captions in `metadata.jsonl`, read and changed in place; lines and keys that are not changed stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text

NAME = "metadata.jsonl"
COLUMNS = ("text", "caption", "prompt")
"""The keys that may have the caption; training uses the first that is there."""
LARGEST = 64 << 20
"""Bytes of a table that is read."""


class CaptionTable:
    """The rows of a `metadata.jsonl`. Raises LorasmithError if the file is too large."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size > LARGEST:
            raise LorasmithError(f"{path.name}: has more than {LARGEST >> 20} MiB; change it in another program")
        self._lines = path.read_text(encoding="utf-8-sig").splitlines()
        self._rows: dict[str, tuple[int, dict[str, Any]]] = {}
        """The number and the contents of the line of each image."""
        for number, line in enumerate(self._lines):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                self._rows.setdefault(row["file_name"], (number, row))

    def caption(self, name: str) -> str | None:
        """The caption of an image, of several the first one; None if it has none."""
        value = self._value(name)
        if isinstance(value, list):
            value = value[0] if value else None
        return None if value is None else str(value)

    def change(self, captions: Mapping[str, str | None]) -> None:
        """Write captions by image, all at once; None takes a caption out.

        Raises LorasmithError, and writes nothing, if an image has a list of captions, which the page does not show.
        """
        lines = list(self._lines)
        for name, caption in captions.items():
            if isinstance(self._value(name), list):
                raise LorasmithError(f"{name}: has a list of captions in {self.path.name}; change it in that file")
            number, row = self._rows.get(name, (None, {"file_name": name}))
            column = next((key for key in COLUMNS if row.get(key) is not None), COLUMNS[0])
            changed = {**row, column: caption}
            if caption is None:
                del changed[column]
            text = json.dumps(changed, ensure_ascii=False)
            if number is None:
                lines.append(text)
            else:
                lines[number] = text
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def _value(self, name: str) -> Any:
        _, row = self._rows.get(name, (0, {}))
        return next((row[key] for key in COLUMNS if row.get(key) is not None), None)

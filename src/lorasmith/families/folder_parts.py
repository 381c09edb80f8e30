"""The config and the tensors of one part of a diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_json_table
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.weight_files import weight_files


def read_part_config(folder: Path, title: str) -> dict[str, Any]:
    """The config of a part of the model, which must be there. `title` names the part in errors."""
    file = folder / "config.json"
    if not file.is_file():
        raise LorasmithError(f"{file}: missing; the {title} cannot be loaded without it")
    return read_json_table(file)


def read_scheduler_config(folder: Path, default: dict[str, Any]) -> dict[str, Any]:
    """The config of the scheduler, or `default` in a folder without one."""
    file = folder / "scheduler_config.json"
    return read_json_table(file) if file.is_file() else default


def read_part_headers(folder: Path, title: str) -> dict[str, TensorRef]:
    """The tensors of a part, of one file or of several, by the names in the files."""
    refs: dict[str, TensorRef] = {}
    for file in weight_files(folder, title):
        refs.update(read_header(file)[0])
    return refs

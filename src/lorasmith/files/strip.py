"""Take metadata out of a file before it is published. The tensors stay as they are, byte for byte."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.families.reader import read_header
from lorasmith.files.lora import OutputFile
from lorasmith.files.stream import rewrite
from lorasmith.formats.metadata import hashes
from lorasmith.formats.privacy import Level, filter_metadata
from lorasmith.formats.read_tensors import PICKLE_SUFFIXES, read_tensors

LEVELS = [level for level in get_args(Level) if level != "full"]


@dataclass(frozen=True)
class StripReport:
    """What was taken out of a file."""

    file: Path
    removed: list[str]
    """Keys that the new file does not have."""
    changed: list[str]
    """Keys whose values tell less."""
    kept: list[str]

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"file": str(self.file)}


def strip(path: Path, level: Level, output: OutputFile) -> StripReport:
    """Write a copy of a file whose metadata are those of a level (`formats.privacy`).

    Raises LorasmithError if the file is not a `.safetensors` file, or if the output exists and must not be replaced.
    """
    if level not in LEVELS:
        raise LorasmithError(f"--to {level}: must be one of {', '.join(LEVELS)}")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise LorasmithError(f"{path}: is a pickle file, which has no metadata; only .safetensors files are stripped")
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file")
    output.check()

    _, header = read_header(path)
    metadata = {str(key): str(value) for key, value in dict(header or {}).items()}
    stripped = filter_metadata(metadata, level)
    if "sshs_legacy_hash" in stripped:
        # this hash covers kohya's metadata too, so that of the old file would be wrong
        stripped |= hashes(read_tensors(path)[0], stripped)
    with atomic_path(output.path) as temporary:
        rewrite(path, temporary, {}, stripped)
    return StripReport(
        file=output.path,
        removed=sorted(set(metadata) - set(stripped)),
        changed=sorted(key for key, value in stripped.items() if value != metadata.get(key)),
        kept=sorted(key for key, value in stripped.items() if value == metadata.get(key)),
    )

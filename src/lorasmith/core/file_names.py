"""Names of files that every file system takes, and folders that can be made."""

from __future__ import annotations

import os
from pathlib import Path

from lorasmith.core.errors import LorasmithError

FORBIDDEN = '<>:"|?*/\\'
"""Windows takes none of them; / and \\ separate folders."""
RESERVED = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)))
)
"""Names of devices on Windows, whatever their case and suffix."""
MAX_BYTES = 255
"""Of one name, on the file systems of Linux, macOS and Windows."""
MARGIN = 55
"""Bytes that are added to the name of a run for steps, suffixes and temporary files."""


def name_fault(name: str) -> str:
    """Why `name` cannot be the name of a file, to which a suffix and a step are added; empty if it can."""
    fault = portability_fault(name)
    if fault:
        return fault
    length = len(os.fsencode(name))
    if length > MAX_BYTES - MARGIN:
        return f"has {length} bytes; file systems take {MAX_BYTES} with suffix and step"
    return ""


def portability_fault(name: str) -> str:
    """Why some system does not take `name` for a file or folder, whatever its length; empty if all do."""
    if not name.strip(". "):
        return "is empty, or of dots alone"
    bad = [c for c in dict.fromkeys(name) if c in FORBIDDEN or ord(c) < 32]
    if bad:
        return f"has {' '.join(c if c.isprintable() else repr(c) for c in bad)}, which not every file system takes"
    if name.split(".")[0].strip().upper() in RESERVED:
        return "is the name of a device on Windows, which no file there can have"
    if name != name.strip(" ") or name.endswith("."):
        return "begins or ends with a space, or ends with a dot, which Windows leaves out of names"
    return ""


def check_output_name(path: Path) -> None:
    """Raise LorasmithError if some system does not take the name of a file or folder that is to be written."""
    # the stem alone, too: `mia .safetensors`
    fault = portability_fault(path.name) or portability_fault(path.stem)
    if fault:
        raise LorasmithError(f"{path}: the name {fault}; give another name with -o")


def folder_fault(folder: Path) -> str:
    """Why files cannot be written to `folder`, which need not exist yet; empty if they can. Nothing is written."""
    if "\0" in str(folder):
        return "has a NUL character"
    too_long = [part for part in folder.parts if len(os.fsencode(part)) > MAX_BYTES]
    if too_long:
        return f"has a name of {len(os.fsencode(too_long[0]))} bytes; file systems take {MAX_BYTES}"
    existing = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    if not existing.is_dir():
        what = "is a link to nothing" if existing.is_symlink() else "is a file"
        return f"cannot be made, because {existing} {what}"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"cannot be made, because {existing} may not be written to" if existing != folder else "is read-only"
    return ""

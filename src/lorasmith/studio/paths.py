"""The folders that the studio was started on, and the names of paths below them.

The browser names a file by the name of its root folder and the path below it: `runs/garp/previews/step-00000100/0.png`.
Nothing outside of the roots can be named.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lorasmith.core.errors import LorasmithError

NOT_IN_NAMES = ("\\", "\0", *([":"] if os.name == "nt" else []))
"""What no part of a name may hold. On Windows a colon begins a drive or another stream of a file."""


class OutsideError(LorasmithError):
    """A path that is not below the folders that the studio was started on."""


class Roots:
    """The folders that may be read and written, by name.

    Raises LorasmithError if one of `folders` is not a folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders: dict[str, Path] = {}
        for folder in folders:
            path = folder.expanduser().resolve()
            if not path.is_dir():
                raise LorasmithError(f"{folder}: is not a folder; name folders with runs, images or LoRA files")
            if path not in self.folders.values():
                self.folders[self._free_name(path.name or "root")] = path

    def _free_name(self, name: str) -> str:
        """The name, with a number if another root has it already: two roots may both be called `images`."""
        candidate, number = name, 2
        while candidate in self.folders:
            candidate, number = f"{name}-{number}", number + 1
        return candidate

    def resolve(self, name: str) -> Path:
        """The path that a name of the browser stands for; it need not exist.

        Raises OutsideError for a name that leads out of the roots, also through a link, or into a hidden file.
        """
        root_name, _, below = name.partition("/")
        root = self.folders.get(root_name)
        parts = below.split("/") if below else []
        if root is None:
            raise OutsideError(f'"{name}" is not below a folder of the studio: {", ".join(self.folders)}')
        # a name is spelled in one way only, so that no spelling of `..` needs to be foreseen
        if any(part in ("", ".", "..") or any(mark in part for mark in NOT_IN_NAMES) for part in parts):
            raise OutsideError(f'"{name}" is not a path below {root_name}')
        if any(part.startswith(".") for part in parts):
            raise OutsideError(f'"{name}" is hidden; the studio does not open hidden files and folders')
        return self.check(root.joinpath(*parts))

    def check(self, path: Path) -> Path:
        """The path, with links resolved. Raises OutsideError if it is not below the roots."""
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root) for root in self.folders.values()):
            raise OutsideError(
                f"{path} is outside of the folders that the studio was started on. To use it, start the studio with "
                f"that folder too: lorasmith studio {path.parent}"
            )
        return resolved

    def name_of(self, path: Path) -> str | None:
        """The name of a path for the browser; None if it is outside of the roots."""
        resolved = path.resolve()
        for name, root in self.folders.items():
            if resolved == root:
                return name
            if resolved.is_relative_to(root):
                return f"{name}/{resolved.relative_to(root).as_posix()}"
        return None

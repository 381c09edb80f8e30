"""Paths in commands that are shown to be copied into a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path


def shell_word(path: Path | str) -> str:
    """A path as one word of a command line, in quotes where it needs them."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))

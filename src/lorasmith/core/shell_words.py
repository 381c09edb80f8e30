"""Words of commands that are shown to be copied into a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path


def shell_word(word: Path | str) -> str:
    """A path or text as one word of a command line, in quotes where it needs them."""
    return subprocess.list2cmdline([str(word)]) if os.name == "nt" else shlex.quote(str(word))

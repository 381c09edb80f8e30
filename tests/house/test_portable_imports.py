"""Every module can be imported where Python has no POSIX modules, as on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import builtins, importlib, pkgutil, warnings
warnings.simplefilter("ignore")
from filelock import FileLock  # looks at how it is imported
import lorasmith

MISSING = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
real_import = builtins.__import__

def import_as_on_windows(name, globals=None, *rest, **options):
    # libraries have Windows versions of their own; what counts is what Lorasmith imports
    importer = (globals or {}).get("__name__") or ""
    if name.partition(".")[0] in MISSING and importer.startswith("lorasmith"):
        raise ModuleNotFoundError(name)
    return real_import(name, globals, *rest, **options)

builtins.__import__ = import_as_on_windows
failed = []
for module in pkgutil.walk_packages(lorasmith.__path__, "lorasmith."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if error.name != "triton":
            failed.append(f"{module.name}: {error}")
print(len(failed), *failed, sep="\\n")
"""


@pytest.mark.slow
def test_every_module_is_imported_without_posix_modules() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["0"], run.stdout

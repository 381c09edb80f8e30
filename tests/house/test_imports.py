"""What is imported when: the command line answers at once, and a warm start needs no model library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "diffusers", "numpy", "pydantic", "PIL", "safetensors")
COMMANDS = ([], ["train"], ["sample"], ["check"], ["inspect"], ["convert"], ["merge"], ["demo"])


def modules_after(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    return {name for name in loaded if name in HEAVY}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "lorasmith")
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    arguments = ["lorasmith", *command, "--help"]
    code = f"""
sys.argv = {arguments!r}
from lorasmith.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code"""
    own = {"pydantic"} if command else set()  # typer imports it itself to describe parameters
    assert modules_after(code) - own == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert modules_after("import lorasmith; dir(lorasmith); lorasmith.LorasmithError") == set()


def test_the_public_names_are_there() -> None:
    import lorasmith

    for name in lorasmith.__all__:
        assert getattr(lorasmith, name) is not None
        assert name in dir(lorasmith)
    with pytest.raises(AttributeError, match=r"no attribute 'trian'"):
        lorasmith.trian  # noqa: B018

"""A base to train on, and the program as its user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answers import ROOT, Answer, Program


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded base where it is part of the tree, else one with random weights."""
    if (ROOT / "src/lorasmith/assets/tiny-sd").is_dir():
        return "tiny-sd"
    folder = tmp_path_factory.mktemp("base")
    command = [sys.executable, str(ROOT / "tools/make_random_sd.py"), str(folder), "--tiny", "--folder"]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder)


@pytest.fixture
def program() -> Program:
    """Runs `python -m lorasmith ...` in a process of its own."""

    def run(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
        command = [sys.executable, "-m", "lorasmith", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})})
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The same in this process, which spares the imports."""
    from lorasmith.cli.main import main

    def run(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["lorasmith", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def config(base: str, pictures: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a small run's config, with further lines of TOML before its tables."""

    def write(top: str = "", tables: str = "", images: Path | None = None) -> Path:
        folder = images or pictures(4)
        path = tmp_path / "garp.toml"
        path.write_text(
            f'base = "{base}"\noutput = "{tmp_path / "run"}"\nname = "garp"\ntrigger = ["garp"]\nsteps = 3\n{top}\n'
            f'[data]\nimages = "{folder}"\nresolution = 64\nbatch_size = 2\n'
            f'[adapter]\nrank = 2\nlayers = "attention"\n{tables}\n'
        )
        return path

    return write

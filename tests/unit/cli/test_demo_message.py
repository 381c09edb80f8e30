"""The commands that the demo prints work in the shell that ran it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lorasmith.cli.demo import command_name, next_steps


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with `.venv/bin/python`, which is not on the PATH of the shell."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return programs


def test_a_name_that_the_shell_finds_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    assert command_name() == "lorasmith"
    assert "activate" not in next_steps(Path("a.safetensors"), Path("a.png"), 1, 3.5)


def test_else_the_path_beside_python(environment: Path) -> None:
    (environment / "lorasmith").touch()
    assert command_name() == ".venv/bin/lorasmith"
    message = next_steps(Path("a.safetensors"), Path("a.png"), 1, 3.5)
    assert ".venv/bin/lorasmith sample" in message
    assert "source .venv/bin/activate" in message


def test_without_a_program_the_module_is_run(environment: Path) -> None:
    assert command_name() == f"{environment / 'python'} -m lorasmith"
